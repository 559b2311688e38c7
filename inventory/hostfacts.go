package inventory

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// HostFacts returns the machine's own facts, named as in Facter: hostname, fqdn, ipaddress, os, kernel, kernelrelease,
// and boot_time in Unix seconds. Unknown ones are left out. ipaddress is the address that connects to towards, the
// HOST:PORT of the bus.
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
	for fact, file := range map[string]string{"kernel": "ostype", "kernelrelease": "osrelease"} {
		if line := readLine(root, "proc/sys/kernel/"+file); line != "" {
			f[fact] = line
		}
	}
	if boot, ok := bootTime(root); ok {
		f["boot_time"] = boot
	}
	return f
}

// address is the machine's address for others: the source address of the route to towards, else the first global
// address, else a loopback address.
func address(towards string) netip.Addr {
	source := sourceAddress(towards)
	if source.IsValid() && !source.IsLoopback() {
		return source
	}
	return cmp.Or(globalAddress(), source, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}

// sourceAddress takes the source address of a connected UDP socket, which sends nothing.
func sourceAddress(towards string) netip.Addr {
	dialer := net.Dialer{Timeout: time.Second} // towards may be a name that no resolver answers for
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

// distributions has Facter's os.name and os.family by the ID of os-release.
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

// osFact is the fact "os". A distribution that is not in distributions keeps its own name and gets the family of one in
// its ID_LIKE.
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

// osRelease parses os-release(5).
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

// bootTime is when the machine booted, in Unix seconds: a float64, as every number from JSON.
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
