package membership

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"kicker/inventory"
	"kicker/inventory/query"
)

// Need is one dependency of an action: a role, under the name that the action gives it.
type Need struct {
	As     string
	Role   *Role
	Shared string // "environment=prod": the facts that its members share with the dependent; empty: not narrowed
}

// ParseNeed splits a dependency: a role's name or a selector, and the facts that members must share with the dependent.
func ParseNeed(text string) (name string, same []string, err error) {
	name, list, narrowed := strings.Cut(text, " same=")
	if !narrowed {
		return text, nil, nil
	}
	for path := range strings.SplitSeq(list, ",") {
		if path = strings.TrimSpace(path); path == "" || strings.ContainsAny(path, " =") {
			return "", nil, fmt.Errorf("depends_on %q: write names of facts after same=, as in web same=environment,site", text)
		}
		same = append(same, path)
	}
	return strings.TrimSpace(name), same, nil
}

// checkNeed reports why an action cannot depend on something.
func checkNeed(text string) error {
	name, _, err := ParseNeed(text)
	switch {
	case err != nil:
		return err
	case strings.Contains(name, "="):
		_, err = query.Parse(name)
		return err
	}
	return CheckRole(name)
}

// Resolve is what a dependency means for a node with these facts. A role that was unknown until now begins with the
// nodes that match it.
func (t *Table) Resolve(text string, facts inventory.Facts, nodes *inventory.Snapshot, now time.Time) (Need, error) {
	name, same, err := ParseNeed(text)
	if err != nil {
		return Need{}, err
	}
	need := Need{As: name}
	need.Role, err = t.role(name)
	if err == nil && len(same) > 0 {
		need.Role, need.Shared, err = t.narrow(need.Role, text, same, facts)
	}
	for _, r := range t.unfilled {
		for n := range nodes.All() {
			r.update(n, n, now)
		}
	}
	t.unfilled = nil
	return need, err
}

// narrow is the part of a role whose nodes have the dependent's own values of the facts named. shared is those facts
// and values.
func (t *Table) narrow(base *Role, text string, same []string, facts inventory.Facts) (
	r *Role, shared string, err error) {
	var terms []string
	for _, path := range same {
		value, ok := query.Lookup(facts, path)
		if !ok {
			return nil, "", fmt.Errorf("depends_on %q: the node itself has no fact %s", text, path)
		}
		terms = append(terms, path+"="+strconv.Quote(fmt.Sprint(value)))
	}
	selector, err := query.Parse(strings.Join(terms, ","))
	if err != nil {
		return nil, "", fmt.Errorf("depends_on %q: %w", text, err)
	}
	shared = selector.String()
	name := base.Name + " where " + shared
	if r = t.byName[name]; r == nil {
		r, err = t.add(name, base.selector.And(selector), base.RoleConfig, true)
	}
	return r, shared, err
}

// role is the role that a dependency names: by its name, or by a selector, which is a role by itself.
func (t *Table) role(name string) (*Role, error) {
	if r := t.byName[name]; r != nil {
		return r, nil
	}
	isSelector := strings.Contains(name, "=")
	text := name
	if !isSelector {
		if err := CheckRole(name); err != nil {
			return nil, err
		}
		text = "role=" + name
	}
	selector, err := query.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("role %.40q: %w", name, err)
	}
	if canonical := selector.String(); isSelector && canonical != name {
		return t.role(canonical)
	}
	return t.add(name, selector, RoleConfig{MemberFacts: DefaultMemberFacts, Budget: DefaultBudget}, isSelector)
}
