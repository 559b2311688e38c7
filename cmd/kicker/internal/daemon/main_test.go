package daemon

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this binary also be the programs that run beside kicker in these tests.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"actor": actor, "tls-broker": tlsBroker})
}
