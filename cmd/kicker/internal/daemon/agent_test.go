package daemon

import (
	"testing"

	"kicker/config"
	"kicker/inventory"
)

func TestTCPCheckGivesThePortUnlessOneIsSet(t *testing.T) {
	for _, c := range []struct {
		check string
		facts []string
		want  any
	}{
		{"tcp:8080", nil, "8080"},
		{"tcp:127.0.0.1:8080", []string{"site=a"}, "8080"},
		{"tcp:8080", []string{"port=80"}, "80"},
		{"http://127.0.0.1:8080/healthz", nil, nil},
		{"exec:nc -z 127.0.0.1 8080", nil, nil},
		{"", nil, nil},
	} {
		agent := config.Default().Agent
		agent.Ready.Check, agent.Facts = c.check, c.facts
		facts := inventory.Facts{}
		if err := addFacts(facts, agent); err != nil || facts["port"] != c.want {
			t.Errorf("with the check %q and facts %v the port is %v, %v, want %v", c.check, c.facts, facts["port"], err,
				c.want)
		}
	}
}

func TestFactsAreAnnouncedInTheirOneForm(t *testing.T) {
	facts := inventory.HostFacts("127.0.0.1:7422")
	err := addFacts(facts, config.AgentConfig{Roles: []string{"web"}, Facts: []string{"ipaddress=::FFFF:10.0.0.1"}})
	if err != nil || facts["ipaddress"] != "10.0.0.1" || facts["role"] != "web" {
		t.Errorf("ipaddress %v, role %v, %v", facts["ipaddress"], facts["role"], err)
	}
	if err := addFacts(facts, config.AgentConfig{Facts: []string{"port="}}); err == nil {
		t.Error("an empty port is accepted")
	}
}
