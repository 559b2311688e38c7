package api

import (
	"slices"
	"testing"
	"time"
)

func TestEveryGateIsTimedOrAPersons(t *testing.T) {
	persons := []string{"observe", "disabled", "unknown role", "min_members", "held"}
	timed := []string{"leader", "synced", "settle", "running", "budget", "rollout", "backoff"}
	for _, name := range Gates {
		if slices.Contains(persons, name) == slices.Contains(timed, name) {
			t.Errorf("gate %q: this test does not know whether it is timed", name)
		}
		if got, want := NewGate(name, "", time.Time{}).Person, slices.Contains(persons, name); got != want {
			t.Errorf("gate %q is a person's: %t, want %t", name, got, want)
		}
	}
}

func TestActionWaitsOnlyForAPersonIfAllItsGatesAreAPersons(t *testing.T) {
	gates := func(names ...string) (made []Gate) {
		for _, name := range names {
			made = append(made, NewGate(name, "", time.Time{}))
		}
		return made
	}
	for _, test := range []struct {
		gates []Gate
		want  bool
	}{
		{gates(), false},
		{gates(GateMinMembers), true},
		{gates(GateDisabled, GateObserve), true},
		{gates(GateDisabled, GateSettle), false},
		{gates(GateBackoff), false},
	} {
		if got := OnlyPerson(test.gates); got != test.want {
			t.Errorf("%+v: %t, want %t", test.gates, got, test.want)
		}
	}
}
