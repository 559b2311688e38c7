package membership

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// Need is one dependency of an action, with the role that it means for the action's node.
type Need struct {
	As     string // the canonical text of the dependency; what the node applied goes by it
	Role   *Role
	Shared string // "environment=prod": the facts that its members share with the dependent; empty: not narrowed
}

// Dependency is what an action depends on, as a person writes it:
//
//	NAME [same=FACT,...] [with=FACT[?],...]
type Dependency struct {
	Name string   // of a role, or a selector in its canonical form
	Same []string // facts that members share with the dependent; sorted
	With []string // facts that its members have, sorted; one that ends in ? is optional. None: those of the role
}

// MaxMemberFacts is how many facts of a member its dependents get at most.
const MaxMemberFacts = 32

// ParseDependency reads a dependency. Its canonical text is what String returns.
func ParseDependency(text string) (Dependency, error) {
	name, clauses := splitClauses(text)
	d := Dependency{Name: name}
	for _, clause := range clauses {
		key, list, _ := strings.Cut(clause, "=")
		facts := &d.Same
		if key == "with" {
			facts = &d.With
		}
		if *facts != nil {
			return d, fmt.Errorf("depends_on %q: %s= is there twice: write all facts after one of them", text, key)
		}
		for fact := range strings.SplitSeq(list, ",") {
			fact = strings.TrimSpace(fact)
			path := fact
			if key == "with" {
				path = strings.TrimSuffix(fact, "?")
			}
			if path == "" || strings.ContainsAny(path, "=?") || query.CheckPath(path) != nil {
				return d, fmt.Errorf("depends_on %q: write names of facts after %s=, as in %s", text, key, examples[key])
			}
			*facts = append(*facts, fact)
		}
		slices.Sort(*facts)
		*facts = slices.Compact(*facts)
	}
	if len(d.With) > MaxMemberFacts {
		return d, fmt.Errorf("depends_on %q: %d facts after with=, the limit is %d", text, len(d.With), MaxMemberFacts)
	}
	for _, fact := range d.With {
		if slices.Contains(d.With, fact+"?") {
			return d, fmt.Errorf("depends_on %q: fact %s is both required and optional: remove one", text, fact)
		}
	}
	var err error
	if d.Name, err = canonicalName(name); err != nil {
		return d, err
	}
	if err := kick.CheckNeed(d.String()); err != nil {
		return d, fmt.Errorf("%w: declare a role with this selector, and depend on it", err)
	}
	return d, nil
}

var examples = map[string]string{"same": "web same=environment,site", "with": "web with=ipaddress,weight?"}

// splitClauses splits the clauses from the end of a dependency. In a selector a space may stand in quotes and after a
// comma.
func splitClauses(text string) (name string, clauses []string) {
	quote, from := byte(0), len(text)
	for i := range len(text) {
		c := text[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		case c == '"' || c == '\'':
			quote = c
		case c == ' ' && (strings.HasPrefix(text[i:], " same=") || strings.HasPrefix(text[i:], " with=")):
			if strings.HasSuffix(strings.TrimRight(text[:i], " "), ",") && from == len(text) {
				continue // a term of the selector
			}
			if from < len(text) {
				clauses = append(clauses, text[from:i])
			} else {
				name = text[:i]
			}
			from = i + 1
		}
	}
	if from == len(text) {
		return strings.TrimSpace(text), nil
	}
	return strings.TrimSpace(name), append(clauses, text[from:])
}

// canonicalName is a role's name as it is, or a selector in its canonical form.
func canonicalName(name string) (string, error) {
	if !strings.ContainsAny(name, "=!") {
		return name, CheckRole(name)
	}
	selector, err := query.Parse(name)
	if err != nil {
		return "", err
	}
	if text := selector.String(); text != "" {
		return text, nil
	}
	return "", errors.New("a selector without a term would mean every node: write a role's name, or role=NAME")
}

// String is the canonical text of the dependency.
func (d Dependency) String() string {
	text := d.Name
	if len(d.Same) > 0 {
		text += " same=" + strings.Join(d.Same, ",")
	}
	if len(d.With) > 0 {
		text += " with=" + strings.Join(d.With, ",")
	}
	return text
}

// Resolve is what a dependency means for a node with these facts. A role that was unknown until now begins with the
// nodes that match it. From now on its members have its required facts.
func (t *Table) Resolve(text string, facts inventory.Facts, nodes *inventory.Snapshot, now time.Time) (Need, error) {
	d, err := ParseDependency(text)
	if err != nil {
		return Need{}, err
	}
	need := Need{As: d.String()}
	if len(d.With)+len(d.Same) == 0 {
		need.Role, err = t.role(d.Name)
	} else {
		need.Role, need.Shared, err = t.part(d, text, facts)
	}
	for _, r := range t.unfilled {
		for n := range nodes.All() {
			r.update(n, n, now)
		}
	}
	t.unfilled = nil
	if err == nil && !need.Role.needed {
		need.Role.isNeeded(nodes, now)
	}
	return need, err
}

// isNeeded notes that a first action depends on the role. Its members have all required facts from now on, and it opens
// when the nodes that are there have been checked. No dependent was handed its members, so nothing is lost.
func (r *Role) isNeeded(nodes *inventory.Snapshot, now time.Time) {
	r.needed = true
	for name := range r.members {
		n := nodes.Node(name)
		if n == nil {
			continue
		}
		if _, lacks := memberFacts(n.Facts, r.MemberFacts); lacks != "" {
			r.lacks[name] = lacks
			r.depart(name, kick.DepartedFactMissing, now)
			delete(r.members, name)
			delete(r.suspects, name)
			r.touch(now)
		}
	}
	if r.recovery.done && slices.ContainsFunc(r.Nodes(), func(name string) bool { return isChecking(nodes, name) }) {
		r.recovery = recovery{basis: r.recovery.basis}
	}
}

// part is the part of a role that a dependency means for a node with these facts: with other member facts, or only the
// nodes that have the dependent's own values of some facts. shared is those facts and values.
func (t *Table) part(d Dependency, text string, facts inventory.Facts) (r *Role, shared string, err error) {
	base := t.byName[d.Name]
	if base == nil { // no node has it: there may be no role of that name beside its part
		if base, err = newBase(d.Name); err != nil {
			return nil, "", err
		}
	}
	name, selector, cfg := base.Name, base.selector, base.RoleConfig
	if len(d.Same) > 0 {
		var same query.Selector
		for _, path := range d.Same {
			value, ok := query.Lookup(facts, path)
			if !ok {
				return nil, "", fmt.Errorf("depends_on %q: the node itself has no fact %s", text, path)
			}
			same = same.And(query.Equal(path, fmt.Sprint(value)))
		}
		shared, selector = same.String(), selector.And(same)
		name += " where " + shared
	}
	if len(d.With) > 0 {
		cfg.MemberFacts = d.With
		name += " with=" + strings.Join(d.With, ",")
	}
	if r = t.byName[name]; r == nil {
		if r, err = t.add(name, selector, cfg, true); err != nil {
			return nil, "", err
		}
	}
	r.declared = base.configured || base.known
	return r, shared, nil
}

// role is the role that a dependency names: by its name, or by a selector in its canonical form, which is a role by
// itself.
func (t *Table) role(name string) (*Role, error) {
	if r := t.byName[name]; r != nil {
		return r, nil
	}
	r, err := newBase(name)
	if err != nil {
		return nil, err
	}
	return t.add(name, r.selector, r.RoleConfig, strings.ContainsAny(name, "=!"))
}

// newBase is a role that no configuration names, by its name, or by a selector. It is in no table yet.
func newBase(name string) (*Role, error) {
	text := name
	if !strings.ContainsAny(name, "=!") {
		if err := CheckRole(name); err != nil {
			return nil, err
		}
		text = "role=" + name
	}
	selector, err := query.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("role %.40q: %w", name, err)
	}
	r := newRole()
	r.selector = selector
	r.RoleConfig = RoleConfig{
		Name: name, MemberFacts: DefaultMemberFacts, Budget: DefaultBudget, MinMembers: DefaultMinMembers,
	}
	return r, nil
}
