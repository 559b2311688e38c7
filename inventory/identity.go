package inventory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Self is who a node is on the bus.
type Identity struct {
	Cluster  string
	Node     string
	Instance string // which machine bears the name
	Boot     string // which boot of it
}

// Detect fills in what known leaves empty: Node is the lower-cased FQDN, Instance the machine's DMI product UUID, else its
// machine id, else its host name. Cluster has to be known. It takes a second at most, however dead the resolver is.
func Detect(known Identity) (Identity, error) {
	return detect(known, "/", hostName)
}

func detect(self Identity, root string, hostName func() (host, error)) (Identity, error) {
	if err := CheckName(self.Cluster); err != nil {
		return Identity{}, fmt.Errorf("cluster: %w", err)
	}
	name, err := hostName()
	if self.Node == "" {
		if err != nil {
			return Identity{}, fmt.Errorf("node: no name configured, and the machine's is not known: %w", err)
		}
		self.Node = name.fqdn
		if err := CheckName(self.Node); err != nil {
			return Identity{}, fmt.Errorf("node: the machine's host name can't be the node's (set agent.name or --name): %w", err)
		}
	}
	if err := CheckName(self.Node); err != nil {
		return Identity{}, fmt.Errorf("node: %w", err)
	}
	if self.Instance == "" {
		self.Instance = instance(root, name.short)
	}
	if self.Instance == "" {
		return Identity{}, errors.New("instance: the machine has neither product UUID, machine id nor host name: set agent.instance")
	}
	if self.Boot == "" {
		if self.Boot = readLine(root, "proc/sys/kernel/random/boot_id"); self.Boot == "" {
			return Identity{}, errors.New("boot: /proc/sys/kernel/random/boot_id cannot be read: is /proc mounted?")
		}
	}
	return self, nil
}

// instance is the first identity that is really one: firmware and unfinished images carry values that many machines share.
func instance(root, hostName string) string {
	uuid := strings.ToLower(readLine(root, "sys/class/dmi/id/product_uuid"))
	shared := strings.Count(uuid, "-") != 4 ||
		strings.Trim(uuid, "0-") == "" || strings.Trim(uuid, "f-") == "" ||
		uuid == "03000200-0400-0500-0006-000700080009" || uuid == "12345678-1234-5678-90ab-cddeefaabbcc"
	if !shared {
		return uuid
	}
	if id := readLine(root, "etc/machine-id"); id != "" && id != "uninitialized" {
		return id
	}
	return hostName
}

// host is a machine's host name, short and with its domain where one can be found.
type host struct{ short, fqdn string }

// hostName is asked once, so that the answer doesn't change while the process runs.
var hostName = sync.OnceValues(func() (host, error) {
	name, err := os.Hostname()
	if err != nil {
		return host{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return qualify(name, func(name string) (string, error) { return net.DefaultResolver.LookupCNAME(ctx, name) }), nil
})

// qualify completes name with its domain if canonical knows one. Other names than name with a domain are not believed: they say
// what an address is called (localhost.localdomain), not what the machine is.
func qualify(name string, canonical func(string) (string, error)) host {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if short, _, qualified := strings.Cut(name, "."); qualified {
		return host{short, name}
	}
	full, err := canonical(name)
	full = strings.ToLower(strings.TrimSuffix(full, "."))
	if domain, ok := strings.CutPrefix(full, name+"."); err != nil || !ok || domain == "" {
		return host{name, name}
	}
	return host{name, full}
}

// readLine is the first line of a small file, without spaces around it; empty if there is none.
func readLine(root, path string) string {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}
