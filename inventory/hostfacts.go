package inventory

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kicker/inventory/query"
)

// HostFacts are the facts that a machine knows without being told, named as Facter names them: hostname, fqdn, ipaddress, os,
// kernel, kernelrelease, and boot_time in Unix seconds. What cannot be found out is left out. The ipaddress is the one that speaks
// to towards, the bus's HOST:PORT.
func HostFacts(towards string) Facts {
	return hostFacts("/", towards)
}

func hostFacts(root, towards string) Facts {
	f := Facts{}
	if name, err := hostName(); err == nil {
		f["hostname"], f["fqdn"] = name.short, name.fqdn
	}
	if addr := address(towards); addr.IsValid() {
		f["ipaddress"] = addr.String()
	}
	if os := osFact(osRelease(root)); os != nil {
		f["os"] = os
	}
	if kernel := readLine(root, "proc/sys/kernel/ostype"); kernel != "" {
		f["kernel"] = kernel
	}
	if release := readLine(root, "proc/sys/kernel/osrelease"); release != "" {
		f["kernelrelease"] = release
	}
	if boot, ok := bootTime(root); ok {
		f["boot_time"] = boot
	}
	return f
}

// ParseFact reads PATH=VALUE. The value stays a string, as in Facter; selectors compare it as a number where it looks like one.
func ParseFact(s string) (path, value string, err error) {
	path, value, ok := strings.Cut(s, "=")
	path = strings.TrimSpace(path)
	if !ok {
		return "", "", fmt.Errorf("fact %q: want NAME=VALUE, as in site.room=5", s)
	}
	if err := query.CheckPath(path); err != nil {
		return "", "", fmt.Errorf("fact %q: %w", s, err)
	}
	return path, value, nil
}

// Set sets the fact at path, nested at the dots, to a JSON value. It replaces the value that was there, but neither facts below
// path nor a value above it: they would be lost unseen.
func (f Facts) Set(path string, value any) error {
	level := map[string]any(f)
	keys := strings.Split(path, ".")
	last := len(keys) - 1
	for i, key := range keys[:last] {
		next, taken := level[key]
		inner, nested := next.(map[string]any)
		if taken && !nested {
			above := strings.Join(keys[:i+1], ".")
			return fmt.Errorf("fact %s: there is %s=%v already, so there can be nothing below %s", path, above, next, above)
		}
		if !taken {
			inner = map[string]any{}
			level[key] = inner
		}
		level = inner
	}
	if inner, nested := level[keys[last]].(map[string]any); nested && len(inner) > 0 {
		return fmt.Errorf("fact %s: there is %s.%s already, so %s cannot have a value itself", path, path, firstKey(inner), path)
	}
	level[keys[last]] = value
	return nil
}

// SetRoles sets the fact role: a string for one role, a list for several, nothing for none.
func (f Facts) SetRoles(roles []string) {
	switch len(roles) {
	case 0:
	case 1:
		f["role"] = roles[0]
	default:
		list := make([]any, len(roles))
		for i, r := range roles {
			list[i] = r
		}
		f["role"] = list
	}
}

func firstKey(m map[string]any) string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	return slices.Min(keys)
}

// address is where the machine can be reached from towards, as far as it can tell: the source of the route there, else the first
// global address, else a loopback.
func address(towards string) netip.Addr {
	source := sourceAddress(towards)
	if source.IsValid() && !source.IsLoopback() {
		return source
	}
	if global := globalAddress(); global.IsValid() {
		return global
	}
	if source.IsValid() {
		return source
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// sourceAddress asks the routing table by connecting a UDP socket, which sends nothing.
func sourceAddress(towards string) netip.Addr {
	dialer := net.Dialer{Timeout: time.Second} // towards may be a name, and the resolver dead
	conn, err := dialer.Dial("udp", towards)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
}

// globalAddress is the first global unicast address of an interface that is up, IPv4 before IPv6.
func globalAddress() netip.Addr {
	interfaces, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}
	}
	var v6 netip.Addr
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil || !prefix.Addr().IsGlobalUnicast() {
				continue
			}
			if addr := prefix.Addr().Unmap(); addr.Is4() {
				return addr
			} else if !v6.IsValid() {
				v6 = addr
			}
		}
	}
	return v6
}

// distributions are Facter's words for the IDs of os-release: its os.name and os.family.
var distributions = map[string]struct{ name, family string }{
	"debian":              {"Debian", "Debian"},
	"ubuntu":              {"Ubuntu", "Debian"},
	"raspbian":            {"Raspbian", "Debian"},
	"linuxmint":           {"LinuxMint", "Debian"},
	"devuan":              {"Devuan", "Debian"},
	"rhel":                {"RedHat", "RedHat"},
	"centos":              {"CentOS", "RedHat"},
	"fedora":              {"Fedora", "RedHat"},
	"rocky":               {"Rocky", "RedHat"},
	"almalinux":           {"AlmaLinux", "RedHat"},
	"ol":                  {"OracleLinux", "RedHat"},
	"amzn":                {"Amazon", "RedHat"},
	"sles":                {"SLES", "Suse"},
	"sled":                {"SLED", "Suse"},
	"suse":                {"SLES", "Suse"},
	"opensuse":            {"openSUSE", "Suse"},
	"opensuse-leap":       {"openSUSE", "Suse"},
	"opensuse-tumbleweed": {"openSUSE", "Suse"},
	"arch":                {"Archlinux", "Archlinux"},
	"manjaro":             {"Manjarolinux", "Archlinux"},
	"alpine":              {"Alpine", "Alpine"},
	"gentoo":              {"Gentoo", "Gentoo"},
}

// osFact is the fact os of what /etc/os-release says. A distribution without a word of Facter's keeps its own name, and is of the
// family that it says it is like.
func osFact(release map[string]string) map[string]any {
	id := release["ID"]
	if id == "" {
		return nil
	}
	d, known := distributions[id]
	if !known {
		d.name, d.family = release["NAME"], "Linux"
		if d.name == "" {
			d.name = id
		}
		for like := range strings.FieldsSeq(release["ID_LIKE"]) {
			if kin, ok := distributions[like]; ok {
				d.family = kin.family
				break
			}
		}
	}
	fact := map[string]any{"name": d.name, "family": d.family}
	if full := release["VERSION_ID"]; full != "" {
		major, _, _ := strings.Cut(full, ".")
		if id == "ubuntu" {
			major = full // 24.04 and 24.10 are two releases
		}
		fact["release"] = map[string]any{"full": full, "major": major}
	}
	return fact
}

// osRelease reads os-release(5).
func osRelease(root string) map[string]string {
	data, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if errors.Is(err, os.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(root, "usr/lib/os-release"))
	}
	if err != nil {
		return nil
	}
	release := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			release[key] = strings.Trim(value, `"'`)
		}
	}
	return release
}

// bootTime is when the machine started, in Unix seconds: a float64, as every number that comes from JSON.
func bootTime(root string) (float64, bool) {
	data, err := os.ReadFile(filepath.Join(root, "proc/stat"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "btime "); ok {
			seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			return float64(seconds), err == nil
		}
	}
	return 0, false
}
