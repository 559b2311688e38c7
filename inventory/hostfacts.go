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
// and boot_time in Unix seconds. Unknown ones are left out. Texts become valid member facts. ipaddress is the address
// that connects to towards, the HOST:PORT of the bus.
func HostFacts(towards string) Facts { return hostFacts("/", towards) }

func hostFacts(root, towards string) Facts {
	f := Facts{"ipaddress": address(towards).String()}
	if name, err := hostName(); err == nil {
		name = plain(name, MaxMemberText)
		f["hostname"], f["fqdn"] = short(name), name
	}
	if os := osFact(osRelease(root)); os != nil {
		f["os"] = os
	}
	for fact, file := range map[string]string{"kernel": "ostype", "kernelrelease": "osrelease"} {
		if line := plain(readLine(root, "proc/sys/kernel/"+file), MaxMemberText); line != "" {
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

// globalAddress is the machine's first global unicast address of an interface that is up, IPv4 before IPv6.
func globalAddress() (found netip.Addr) {
	interfaces, _ := net.Interfaces() // on an error none is known
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Flags&net.FlagUp == 0 {
			continue
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if err != nil || !prefix.Addr().IsGlobalUnicast() {
				continue
			}
			if prefix.Addr().Unmap().Is4() {
				return prefix.Addr().Unmap()
			}
			found = cmp.Or(found, prefix.Addr())
		}
	}
	return found
}

// distributions has Facter's os.name by the ID of os-release, for each os.family.
var distributions = map[string]map[string]string{
	"Debian": {
		"debian": "Debian", "ubuntu": "Ubuntu", "raspbian": "Raspbian", "linuxmint": "LinuxMint", "devuan": "Devuan",
	},
	"RedHat": {
		"rhel": "RedHat", "centos": "CentOS", "fedora": "Fedora", "rocky": "Rocky", "almalinux": "AlmaLinux",
		"ol": "OracleLinux", "amzn": "Amazon",
	},
	"Suse": {
		"sles": "SLES", "sled": "SLED", "suse": "SLES", "opensuse": "openSUSE", "opensuse-leap": "openSUSE",
		"opensuse-tumbleweed": "openSUSE",
	},
	"Archlinux": {"arch": "Archlinux", "manjaro": "Manjarolinux"},
	"Alpine":    {"alpine": "Alpine"},
	"Gentoo":    {"gentoo": "Gentoo"},
}

// distribution returns the os.name and os.family of a distribution, "" if it is not known.
func distribution(id string) (name, family string) {
	for family, names := range distributions {
		if name, ok := names[id]; ok {
			return name, family
		}
	}
	return "", ""
}

// osFact is the fact "os". A distribution that is not in distributions keeps its own name and gets the family of one in
// its ID_LIKE.
func osFact(release map[string]string) map[string]any {
	id := release["ID"]
	if id == "" {
		return nil
	}
	name, family := distribution(id)
	name = cmp.Or(name, release["NAME"], id)
	for like := range strings.FieldsSeq(release["ID_LIKE"]) {
		if family == "" {
			_, family = distribution(like)
		}
	}
	fact := map[string]any{"name": name, "family": cmp.Or(family, "Linux")}
	if full := release["VERSION_ID"]; full != "" {
		major, _, _ := strings.Cut(full, ".")
		if id == "ubuntu" {
			major = full // 24.04 and 24.10 are two releases
		}
		fact["release"] = map[string]any{"full": full, "major": major}
	}
	return fact
}

// osRelease parses os-release(5). Its texts may have any bytes: they become valid as facts.
func osRelease(root string) map[string]string {
	data, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if errors.Is(err, os.ErrNotExist) {
		data, _ = os.ReadFile(filepath.Join(root, "usr/lib/os-release")) // without it the system is not known
	}
	release := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			release[key] = plain(strings.Trim(value, `"'`), MaxMemberText)
		}
	}
	return release
}

// bootTime is when the machine booted, in Unix seconds: a float64, as every number from JSON.
func bootTime(root string) (float64, bool) {
	data, _ := os.ReadFile(filepath.Join(root, "proc/stat")) // without it the time is not a number
	_, after, _ := strings.Cut(string(data), "\nbtime ")
	text, _, _ := strings.Cut(after, "\n")
	seconds, err := strconv.ParseInt(text, 10, 64)
	return float64(seconds), err == nil
}
