package main

import (
	"context"
	"fmt"
	"kicker/controller/api"
	"strings"
)

// plan answers for these configurations: a selector that matches no node, other member facts, and a dependency on db.
func (l *lab) plan(_ context.Context, text []byte) (api.Plan, error) {
	v := l.show()
	if !v.Sync.Open {
		return api.Plan{}, fmt.Errorf("plan: %w", api.ErrNotSynced)
	}
	p := api.Plan{Actions: []api.PlannedAction{}, Roles: []api.PlannedRole{}}
	web := v.Roles[len(v.Roles)-1]
	stale := func(reason string) {
		for _, now := range v.Verdicts {
			then := now
			then.State, then.Reason, then.Since = api.Pending, reason, noon
			p.Actions = append(p.Actions, api.PlannedAction{
				Node: now.Node, Action: now.Action, BecomesStale: now.State == api.Converged, Now: now, Then: then,
			})
		}
	}
	role := func(then api.Role, r api.PlannedRole) {
		r.Name, r.Now, r.Then = web.Name, &web, &then
		p.Roles = append(p.Roles, r)
	}
	then := web
	switch {
	case strings.Contains(string(text), "cluster: other"):
		return p, fmt.Errorf("configuration: cluster can't change while the controller runs: undo the change or restart the controller")
	case strings.Contains(string(text), "wbe"):
		then.Selector = "role=wbe"
		then.Held = &api.Held{Nodes: []string{"web1", "web2"}, Since: noon, Why: "the role would be empty, and no node left"}
		role(then, api.PlannedRole{})
	case strings.Contains(string(text), "member_facts"):
		then.MemberFacts = []string{"ipaddress"}
		role(then, api.PlannedRole{Changed: []string{"web1", "web2"}})
		stale("web: ~web1 ~web2")
	case strings.Contains(string(text), "depends_on"):
		p.Roles = append(p.Roles, api.PlannedRole{Name: "db", Then: &api.Role{Name: "db", Dependents: []string{"lb1/reload"}}})
		stale("db: never applied")
	case strings.Contains(string(text), "min_members"):
		then.Selector = web.Selector
		role(then, api.PlannedRole{})
	}
	return p, nil
}
