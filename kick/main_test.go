package kick

import (
	"os"
	"testing"
)

// TestMain lets the test binary be what a test of real processes starts: the agent or its shim.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "shim" {
		os.Exit(ShimMain(os.Args[2]))
	}
	if len(os.Args) > 3 && os.Args[1] == "agent" {
		os.Exit(agentMain(os.Args[2], os.Args[3]))
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // else every shim takes a second to exit
	os.Exit(m.Run())
}
