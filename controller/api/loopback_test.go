package api

import "testing"

func TestLoopbackIsOnlyThisMachine(t *testing.T) {
	for hostport, want := range map[string]bool{
		"127.0.0.1:7422": true, "127.8.8.8:0": true, "[::1]:7422": true, "localhost:7422": true, "a.localhost:1": true,
		"127.0.0.1": true, "::1": true, "[::1]": true, "LOCALHOST.": true, "[::ffff:127.0.0.1]:1": true,
		"0.0.0.0:7422": false, ":7422": false, "[::]:7422": false, "10.0.0.1:7422": false, "web1:7422": false,
		"localhost.example.com:7422": false, "": false,
	} {
		if got := IsLoopback(hostport); got != want {
			t.Errorf("IsLoopback(%q) = %t", hostport, got)
		}
	}
}
