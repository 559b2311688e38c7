package inventory

import (
	"cmp"
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

// MaxInstance is how many bytes an Identity's Instance may have.
const MaxInstance = 253

// Identity identifies a node on the bus.
type Identity struct {
	Cluster  string
	Node     string
	Instance string // which machine has the name
	Boot     string // which boot of that machine
}

// Detect fills in the empty fields of known, except Cluster. Node is the lower-cased FQDN. Instance is the machine's
// DMI product UUID, else its machine id, else its host name. It takes one second at most, even if no resolver answers.
func Detect(known Identity) (Identity, error) {
	return detect(known, "/", hostName)
}

func detect(id Identity, root string, hostName func() (string, error)) (Identity, error) {
	if err := CheckCluster(id.Cluster); err != nil {
		return Identity{}, fmt.Errorf("cluster: %w", err)
	}
	name, err := hostName()
	if id.Node == "" {
		if err != nil {
			return Identity{}, fmt.Errorf("the machine's host name is unknown, set agent.name or --name: %w", err)
		}
		id.Node = name
		if err := CheckName(id.Node); err != nil {
			return Identity{}, fmt.Errorf("the machine's host name is unusable, set agent.name or --name: %w", err)
		}
	}
	if err := CheckName(id.Node); err != nil {
		return Identity{}, fmt.Errorf("node: %w", err)
	}
	if id.Instance = cmp.Or(id.Instance, plain(instance(root, short(name)), MaxInstance)); id.Instance == "" {
		return Identity{}, errors.New("the machine has no product UUID, machine id or host name: set agent.instance")
	}
	if id.Boot = cmp.Or(id.Boot, readLine(root, "proc/sys/kernel/random/boot_id")); id.Boot == "" {
		return Identity{}, errors.New("cannot read /proc/sys/kernel/random/boot_id: is /proc mounted?")
	}
	return id, nil
}

// instance is the first identifier that is unique: some firmware and some images carry one that many machines share.
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

// hostName is the machine's host name, with its domain if that is known. It is determined once, so that it doesn't
// change while the process runs.
var hostName = sync.OnceValues(func() (string, error) {
	name, err := os.Hostname()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return qualify(name, func(name string) (string, error) { return net.DefaultResolver.LookupCNAME(ctx, name) }), err
})

// short is a host name without its domain.
func short(name string) string {
	name, _, _ = strings.Cut(name, ".")
	return name
}

// qualify adds the domain to a host name. It takes only the domain of that name itself from canonical: other names,
// such as localhost.localdomain, belong to an address and not to the machine.
func qualify(name string, canonical func(string) (string, error)) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || short(name) != name {
		return name
	}
	full, _ := canonical(name) // without an answer the domain is not known
	full = strings.ToLower(strings.TrimSuffix(full, "."))
	if len(full) > len(name)+1 && strings.HasPrefix(full, name+".") {
		return full
	}
	return name
}

// readLine returns the first line of a file, without spaces around it, or "".
func readLine(root, path string) string {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}
