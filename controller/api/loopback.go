package api

import (
	"net"
	"net/netip"
	"strings"
)

// IsLoopback reports whether HOST:PORT, or a HOST alone, can be reached only from this machine.
func IsLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	addr, _ := netip.ParseAddr(host) // a name is the zero Addr, which is not loopback
	return addr.Unmap().IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}
