package main

import (
	"context"
	"fmt"
	"strings"

	"kicker/controller"
)

// plan is what a lab makes of a configuration: of a selector that matches nobody, of other member facts, and of a dependency on db.
func (l *lab) plan(_ context.Context, text []byte) (controller.Plan, error) {
	v := l.show()
	if !v.Sync.Open {
		return controller.Plan{}, fmt.Errorf("plan: %w", controller.ErrNotSynced)
	}
	p := controller.Plan{Actions: []controller.PlannedAction{}, Roles: []controller.PlannedRole{}}
	web := v.Roles[len(v.Roles)-1]
	stale := func(reason string) {
		for _, now := range v.Verdicts {
			then := now
			then.State, then.Reason, then.Since = controller.Wanted, reason, noon
			p.Actions = append(p.Actions, controller.PlannedAction{
				Node: now.Node, Action: now.Action, BecomesStale: now.State == controller.Converged, Now: now, Then: then,
			})
		}
	}
	role := func(then controller.Role, r controller.PlannedRole) {
		r.Name, r.Now, r.Then = web.Name, &web, &then
		p.Roles = append(p.Roles, r)
	}
	then := web
	switch {
	case strings.Contains(string(text), "cluster: other"):
		return p, fmt.Errorf("configuration: cluster can't change while the controller runs: undo that, or restart it")
	case strings.Contains(string(text), "wbe"):
		then.Selector = "role=wbe"
		then.Held = &controller.Held{Nodes: []string{"web1", "web2"}, Since: noon, Why: "it would be empty, and nobody said goodbye"}
		role(then, controller.PlannedRole{})
	case strings.Contains(string(text), "member_facts"):
		then.MemberFacts = []string{"ipaddress"}
		role(then, controller.PlannedRole{Changed: []string{"web1", "web2"}})
		stale("web: ~web1 ~web2")
	case strings.Contains(string(text), "depends_on"):
		p.Roles = append(p.Roles, controller.PlannedRole{Name: "db", Then: &controller.Role{Name: "db", Dependents: []string{"lb1/reload"}}})
		stale("db: never applied")
	case strings.Contains(string(text), "min_members"):
		then.Selector = web.Selector
		role(then, controller.PlannedRole{})
	}
	return p, nil
}
