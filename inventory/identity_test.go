package inventory

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	uuid    = "4c4c4544-0042-3510-8051-b4c04f4d3632"
	machine = "3d1219c7c4c5404aaa1f6d2a48adfda4"
	bootID  = "b10c0de5-0f59-4c23-b5d6-7ef5d0a0a5b2"
)

func TestDetectFillsInWhatIsNotConfigured(t *testing.T) {
	root := machineRoot(t, map[string]string{
		"sys/class/dmi/id/product_uuid":  strings.ToUpper(uuid) + "\n",
		"etc/machine-id":                 machine + "\n",
		"proc/sys/kernel/random/boot_id": bootID + "\n",
	})
	got, err := detect(Identity{Cluster: "main"}, root, named("web1.example.com"))
	if want := (Identity{"main", "web1.example.com", uuid, bootID}); err != nil || got != want {
		t.Errorf("detect = %+v, %v, want %+v", got, err, want)
	}
	configured := Identity{"main", "other", "i-1", "boot-1"}
	if got, err := detect(configured, root, named("web1.example.com")); err != nil || got != configured {
		t.Errorf("detect = %+v, %v, want what was configured", got, err)
	}
	if got, err := detect(configured, root, nameless); err != nil || got != configured {
		t.Errorf("detect = %+v, %v on a machine without a name, want what was configured", got, err)
	}
}

func TestInstanceIsTheFirstUniqueIdentifier(t *testing.T) {
	for _, tt := range []struct{ uuid, machineID, want string }{
		{uuid, machine, uuid},
		{"", machine, machine},
		{"Not Settable", machine, machine},
		{"00000000-0000-0000-0000-000000000000", machine, machine},
		{"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", machine, machine},
		{"03000200-0400-0500-0006-000700080009", machine, machine},
		{"", "uninitialized", "web1"},
		{"", "", "web1"},
	} {
		root := machineRoot(t, map[string]string{"sys/class/dmi/id/product_uuid": tt.uuid,
			"etc/machine-id": tt.machineID})
		if got := instance(root, "web1"); got != tt.want {
			t.Errorf("instance with UUID %q, machine id %q = %q, want %q", tt.uuid, tt.machineID, got, tt.want)
		}
	}
}

func TestDetectSaysWhatToConfigure(t *testing.T) {
	whole := machineRoot(t, map[string]string{"etc/machine-id": machine, "proc/sys/kernel/random/boot_id": bootID})
	empty := t.TempDir()
	main, web1 := Identity{Cluster: "main"}, named("web1")
	for _, c := range []struct {
		known    Identity
		root     string
		hostName func() (string, error)
		want     string
	}{
		{main, whole, named("web 1"), "set agent.name"},
		{Identity{Cluster: "main", Node: "web/1"}, whole, nameless, `node: name "web/1"`},
		{main, whole, nameless, "host name is unknown"},
		{Identity{}, whole, nameless, "cluster: name"},
		{Identity{Cluster: "a.b", Node: "web1"}, whole, nameless, `cluster: name "a.b": the name of a cluster has no dots`},
		{main, empty, web1, "is /proc mounted?"},
		{Identity{Cluster: "main", Node: "web1"}, empty, nameless, "set agent.instance"},
	} {
		if got, err := detect(c.known, c.root, c.hostName); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("detect = %+v, %v, want an error with %q", got, err, c.want)
		}
	}
}

func TestQualifyTakesOnlyTheDomainOfTheName(t *testing.T) {
	for _, tt := range []struct{ name, canonical, want string }{
		{"Web1", "WEB1.Example.com.", "web1.example.com"},
		{"web1.example.com", "", "web1.example.com"},
		{"web1", "web1.", "web1"},
		{"web1", "web1..", "web1"},
		{"web1", "localhost.localdomain.", "web1"},
		{"web1", "web10.example.com.", "web1"},
		{"web1", "", "web1"},
	} {
		got := qualify(tt.name, func(string) (string, error) {
			if tt.canonical == "" {
				return "", errors.New("no such host")
			}
			return tt.canonical, nil
		})
		if got != tt.want {
			t.Errorf("qualify(%s), canonical %s = %s, want %s", tt.name, tt.canonical, got, tt.want)
		}
	}
}

func named(fqdn string) func() (string, error) {
	return func() (string, error) { return fqdn, nil }
}

func nameless() (string, error) { return "", errors.New("uname failed") }

// machineRoot is the root directory of a machine with these files.
func machineRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
