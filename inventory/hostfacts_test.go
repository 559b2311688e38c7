package inventory

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostFactsAreNamedAsInFacter(t *testing.T) {
	root := machineRoot(t, map[string]string{
		"etc/os-release":            "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n",
		"proc/sys/kernel/ostype":    "Linux\n",
		"proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
		"proc/stat": "cpu 1 2 3\nintr " + strings.Repeat("0 ", 100_000) +
			"\nbtime 1700000000\nprocesses 9\n",
	})
	got := hostFacts(root, "")
	want := Facts{
		"os": map[string]any{
			"name": "Debian", "family": "Debian",
			"release": map[string]any{"full": "12", "major": "12"},
		},
		"kernel": "Linux", "kernelrelease": "6.1.0-18-amd64", "boot_time": 1.7e9,
	}
	for _, name := range []string{"hostname", "fqdn", "ipaddress"} { // of the machine that runs the test
		if text, ok := got[name].(string); !ok || text == "" {
			t.Errorf("fact %s = %v, want a string", name, got[name])
		}
		delete(got, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hostFacts (-want +got):\n%s", diff)
	}
}

func TestHostFactsAreJSONValues(t *testing.T) {
	facts := HostFacts("127.0.0.1:7422")
	data, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	var decoded Facts
	if err := json.Unmarshal(data, &decoded); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decoded, facts); diff != "" {
		t.Errorf("the facts change when they are encoded (-decoded +original):\n%s", diff)
	}
}

func TestOSFamilyIsNamedAsInFacter(t *testing.T) {
	for text, want := range map[string]map[string]any{
		"ID=ubuntu\nVERSION_ID=\"24.04\"\nID_LIKE=debian": osNamed("Ubuntu", "Debian", "24.04", "24.04"),
		"ID='rocky'\nVERSION_ID='9.3'":                    osNamed("Rocky", "RedHat", "9.3", "9"),
		"ID=sles\nVERSION_ID=15.5":                        osNamed("SLES", "Suse", "15.5", "15"),
		"ID=arch\n# no version":                           {"name": "Archlinux", "family": "Archlinux"},
		"ID=pardus\nNAME=Pardus\nID_LIKE=\"x debian\"":    {"name": "Pardus", "family": "Debian"},
		"ID=plan9": {"name": "plan9", "family": "Linux"},
		"":         nil,
	} {
		got := osFact(osRelease(machineRoot(t, map[string]string{"usr/lib/os-release": text})))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("os of %q (-want +got):\n%s", text, diff)
		}
	}
}

func TestTextsOfTheMachineAreValidMemberFacts(t *testing.T) {
	odd := "\xfcnix\x1b[0m\u2028\u0085 " + strings.Repeat("x", 2*MaxMemberText)
	facts := hostFacts(machineRoot(t, map[string]string{
		"etc/os-release":            "ID=\"" + odd + "\"\nNAME='" + odd + "'\nVERSION_ID=" + odd + ".1\n",
		"proc/sys/kernel/ostype":    odd,
		"proc/sys/kernel/osrelease": odd + "\n",
	}), "")
	if len(facts) < 5 {
		t.Errorf("facts are %v, want os, kernel and kernelrelease too", facts)
	}
	for name, value := range facts {
		if err := eachText(value, checkText); err != nil {
			t.Errorf("fact %s: %v", name, err)
		}
	}
	id, err := detect(Identity{Cluster: "main"}, machineRoot(t, map[string]string{
		"etc/machine-id": odd, "proc/sys/kernel/random/boot_id": "b1",
	}), named("web1"))
	if err != nil || checkText(id.Instance) != nil || len(id.Instance) > MaxInstance {
		t.Errorf("the instance is %q, %v", id.Instance, err)
	}
}

func TestAddressIsTheSourceOfTheRouteUnlessLoopback(t *testing.T) {
	global := globalAddress()
	if global.IsValid() {
		towards := net.JoinHostPort(global.String(), "7422")
		if got := address(towards); got != global {
			t.Errorf("address(%s) = %s, want %s", towards, got, global)
		}
	}
	for _, towards := range []string{"127.0.0.1:7422", "", "no such host:7422"} {
		got := address(towards)
		if want := netip.MustParseAddr("127.0.0.1"); got != global && (global.IsValid() || got != want) {
			t.Errorf("address(%q) = %s, want %s, or %s on a machine without", towards, got, global, want)
		}
	}
}

func TestParseFact(t *testing.T) {
	for text, want := range map[string][2]string{
		"site.room=5": {"site.room", "5"},
		"motto=a=b, ": {"motto", "a=b, "},
		" port =":     {"port", ""},
	} {
		path, value, err := ParseFact(text)
		if got := [2]string{path, value}; err != nil || got != want {
			t.Errorf("ParseFact(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"port":    "want NAME=VALUE",
		"=5":      "a name on both sides of each dot",
		"a..b=5":  "a name on both sides of each dot",
		"a<b=5":   `remove them at "<b"`,
		"my a=xy": "has no spaces",
	} {
		if path, value, err := ParseFact(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseFact(%q) = %q, %q, %v, want an error with %q", text, path, value, err, want)
		}
	}
}

func TestSetNestsAndReplacesNoOtherFacts(t *testing.T) {
	facts := Facts{"ipaddress": "10.0.0.1"}
	for _, set := range [][2]string{{"site.room", "5"}, {"site.hall.side", "east"}, {"ipaddress", "10.0.0.2"},
		{"site.room", "6"}} {
		if err := facts.Set(set[0], set[1]); err != nil {
			t.Errorf("Set(%s) = %v", set[0], err)
		}
	}
	want := Facts{"ipaddress": "10.0.0.2", "site": map[string]any{"room": "6", "hall": map[string]any{"side": "east"}}}
	for path, text := range map[string]string{
		"site.room.corner": "fact site.room.corner: there is site.room=6 already",
		"site":             "fact site: there is site.hall already",
	} {
		if err := facts.Set(path, "x"); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("Set(%s) = %v, want an error with %q", path, err, text)
		}
	}
	if diff := cmp.Diff(want, facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestRoleIsAStringForOneAndAListForSeveral(t *testing.T) {
	for _, tt := range []struct {
		roles []string
		want  Facts
	}{
		{nil, Facts{}},
		{[]string{"web"}, Facts{"role": "web"}},
		{[]string{"web", "db"}, Facts{"role": []any{"web", "db"}}},
	} {
		got := Facts{}
		got.SetRoles(tt.roles)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("SetRoles(%v) (-want +got):\n%s", tt.roles, diff)
		}
	}
}

func osNamed(name, family, full, major string) map[string]any {
	return map[string]any{"name": name, "family": family, "release": map[string]any{"full": full, "major": major}}
}
