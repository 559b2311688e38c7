package controller

import (
	"slices"
	"testing"

	"kicker/kick"
)

func TestDependentsFollowTheNodesReports(t *testing.T) {
	inLoop(t, DefaultConfig(), func(l *loop) {
		needs := func(roles ...string) kick.Status {
			return kick.Status{Actions: []kick.ActionStatus{{Name: "reload", DependsOn: roles}}}
		}
		shown := func(claim string, want ...string) {
			t.Helper()
			l.kicked()
			for _, r := range l.View().Roles {
				if r.Name == "web" && !slices.Equal(r.Dependents, want) {
					t.Errorf("%s: the dependents of web are %q, want %q", claim, r.Dependents, want)
				}
			}
		}
		l.says("web1", "web", kick.Status{})
		l.says("lb1", "lb", needs("web"))
		shown("one needs it", "lb1/reload")
		l.says("lb2", "lb", needs("web"))
		shown("another one came", "lb1/reload", "lb2/reload")
		l.says("lb1", "lb", needs("db"))
		shown("one needs another role", "lb2/reload")
		l.says("lb2", "lb", kick.Status{})
		shown("one has no action any more")
		l.says("lb1", "lb", needs("db", "web"))
		shown("one needs it again", "lb1/reload")
	})
}
