package config

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"kicker/controller"
	"kicker/controller/api"
	"kicker/controller/bus"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// minGoneAfter is 3.5 heartbeats at the fastest pace.
const minGoneAfter = 3500 * time.Millisecond

// Limits of settings that go into messages, in bytes.
const (
	maxPath     = 128 // of a fact
	maxSelector = 1024
)

// checkAll finds everything wrong with settings that could be read.
func (r *reader) checkAll() {
	c := r.config
	r.check("cluster", inventory.CheckCluster(c.Cluster))
	r.absolute("state_dir", &r.config.StateDir)
	if c.TokenFile != "" {
		r.absolute("token_file", &r.config.TokenFile)
	}
	r.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	r.oneOf("log.format", c.Log.Format, "text", "json")
	r.controller(c)
	r.roleEntries(c.Roles)
	r.agent(c.Agent)
	r.bus(c.Bus)
	r.listen("api.listen", c.API.Listen)
	if u := c.API.URL; u != "" && !strings.HasPrefix(u, "unix:///") && checkURL(u, "http", "https") != nil {
		r.wrong("api.url", "%q is not a usable URL: write http://HOST:PORT, https://HOST:PORT or unix:///PATH",
			bus.Redacted(u))
	}
}

func (r *reader) check(path string, err error) {
	if err != nil {
		r.wrong(path, "%v", err)
	}
}

func (r *reader) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		r.wrong(path, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func atLeast[N int | time.Duration](n, least N) error {
	if n < least {
		return fmt.Errorf("%s is too low: use %s or more", short(n), short(least))
	}
	return nil
}

// inOrder checks that the duration low is at most high. The problem is located at one of the two that is set.
func (r *reader) inOrder(low string, l time.Duration, high string, h time.Duration) {
	if l <= h {
		return
	}
	path := low
	if where, _ := r.of(low); where == "" {
		path = high
	}
	r.wrong(path, "%s %s is more than %s %s: lower %[1]s or raise %[3]s", low, short(l), high, short(h))
}

// absolute resolves a path in a flag or variable against the working directory, and rejects a relative one in the file.
func (r *reader) absolute(key string, path *string) {
	if r.typed[key] != "" && *path != "" {
		*path, _ = filepath.Abs(*path) // empty without a working directory
	}
	if !filepath.IsAbs(*path) {
		r.wrong(key, "%q is not an absolute path: start it with /", *path)
	}
}

func (r *reader) bus(c BusConfig) {
	if c.URL == "" {
		r.listen("bus.listen", c.Listen)
		if c.SystemURL != "" {
			r.wrong("bus.system_url", "the embedded NATS server does not use it: remove it, or set bus.url")
		}
		return
	}
	for u := range strings.SplitSeq(c.URL, ",") {
		r.check("bus.url", checkURL(strings.TrimSpace(u), busSchemes...))
	}
	if c.SystemURL == "" {
		return
	}
	for u := range strings.SplitSeq(c.SystemURL, ",") {
		r.check("bus.system_url", checkURL(strings.TrimSpace(u), busSchemes...))
		if !strings.Contains(u, "@") {
			r.wrong("bus.system_url", "%q names no user of the system account: write nats://USER:PASSWORD@HOST:PORT", u)
		}
	}
}

func (r *reader) controller(c Config) {
	r.goneAfter("gone_after", c.GoneAfter)
	r.oneOf("guard", c.Guard, controller.GuardOn, controller.GuardShadow)
	r.oneOf("mode", c.Mode, plan.ModeAct, plan.ModeObserve)
	r.check("in_flight", atLeast(c.InFlight, 1))
	r.limits(c.Limits)
	r.check("run_at_most", atLeast(c.RunAtMost, time.Minute))
	if c.Standby && c.Bus.URL == "" {
		r.wrong("standby", "the embedded NATS server stops with its controller: set bus.url to another NATS")
	}
	r.check("settle", atLeast(c.Settle, 0))
	r.check("settle_min", atLeast(c.SettleMin, 0))
	r.check("settle_max", atLeast(c.SettleMax, 0))
	r.inOrder("settle_min", c.SettleMin, "settle_max", c.SettleMax)
	r.check("backoff.initial", atLeast(c.Backoff.Initial, 100*time.Millisecond))
	r.inOrder("backoff.initial", c.Backoff.Initial, "backoff.max", c.Backoff.Max)
}

func (r *reader) goneAfter(path string, d time.Duration) {
	if d < minGoneAfter {
		r.wrong(path, "%s is less than 3.5 heartbeats: use %s or more, so that two lost heartbeats remove no node",
			short(d), short(minGoneAfter))
	}
}

func (r *reader) roleEntries(roles []membership.RoleConfig) {
	var needs []string // of all roles
	for i, role := range roles {
		at := fmt.Sprintf("roles[%d]", i)
		r.check(at+".name", membership.CheckRole(role.Name))
		same := func(other membership.RoleConfig) bool { return other.Name == role.Name }
		if first := slices.IndexFunc(roles, same); first < i {
			r.wrong(at+".name", "role %q is already declared by roles[%d]: merge the two entries", role.Name, first)
		}
		if role.Selector != "" {
			r.check(at+".selector", atMost(maxSelector, len(role.Selector), "bytes", "shorten it"))
			r.selector(at+".selector", role.Selector)
		}
		r.check(at+".min_members", atLeast(role.MinMembers, 0))
		r.oneOf(at+".mode", cmp.Or(role.Mode, plan.ModeAct), plan.ModeAct, plan.ModeObserve)
		_, err := cmp.Or(role.Budget, membership.DefaultBudget).Of(1)
		r.check(at+".budget", err)
		r.check(at+".member_facts", atMost(membership.MaxMemberFacts, len(role.MemberFacts), "facts", "remove some"))
		for j, fact := range role.MemberFacts {
			path := fmt.Sprintf("%s.member_facts[%d]", at, j)
			r.check(path, atMost(maxPath, len(fact), "bytes", "use a fact with a shorter path"))
			r.fact(path, strings.TrimSuffix(fact, "?"))
		}
		r.dependsOn(at+".depends_on", role.DependsOn)
		needs = append(needs, role.DependsOn...)
		if role.Action != "" {
			if len(role.DependsOn) == 0 {
				r.wrong(at+".action", "action %q has no depends_on: add depends_on, or remove action", role.Action)
			}
			r.actionName(at+".action", role.Action)
		}
		r.goneAfter(at+".gone_after", cmp.Or(role.GoneAfter, minGoneAfter))
	}
	if len(needs) > kick.MaxDepends { // all of them can add to one action
		r.wrong("roles", "the depends_on of all roles have %d items together, at most %d are allowed, "+
			"because all of them can add to one action: remove some", len(needs), kick.MaxDepends)
	}
}

// atMost reports that n is more than most, with what to do.
func atMost(most, n int, of, remedy string) error {
	if n > most {
		return fmt.Errorf("%d %s, at most %d are allowed: %s", n, of, most, remedy)
	}
	return nil
}

func (r *reader) limits(limits []plan.Limit) {
	for i, limit := range limits {
		at := fmt.Sprintf("limits[%d]", i)
		r.actionName(at+".action", limit.Action)
		r.check(at+".in_flight", atLeast(limit.InFlight, 1))
		same := func(other plan.Limit) bool { return other.Action == limit.Action }
		if first := slices.IndexFunc(limits, same); first < i {
			r.wrong(at+".action", "action %q is already limited by limits[%d]: remove one of the two", limit.Action, first)
		}
	}
}

func (r *reader) actionName(path, name string) {
	for _, err := range kick.ValidateActions([]kick.Action{{Name: name, Command: []string{"true"}}}) {
		_, text, _ := strings.Cut(err.Error(), ": ") // the error starts with the key
		r.wrong(path, "%s", text)
	}
}

// dependsOn checks roles and selectors that something depends on. A role need not be declared; only a name that looks
// like a typo of a declared role is rejected.
func (r *reader) dependsOn(path string, needs []string) {
	r.check(path, atMost(kick.MaxDepends, len(needs), "items", "remove some"))
	seen := map[string]bool{}
	for i, text := range needs {
		at := fmt.Sprintf("%s[%d]", path, i)
		if strings.HasPrefix(text, "same=") || strings.HasPrefix(text, "with=") { // one text was split into words
			r.wrong(at, `%q is separated from its role: write both as one item, such as ["web %[1]s"]`, text)
			continue
		}
		if !isPrintable(text) {
			r.wrong(at, "%.40q: only printable characters are allowed, and blanks that are spaces", text)
			continue
		}
		d, err := membership.ParseDependency(text)
		if err != nil {
			r.check(at, err)
			continue
		}
		for _, fact := range d.Same {
			r.fact(at, fact)
		}
		for _, fact := range d.With {
			r.fact(at, strings.TrimSuffix(fact, "?"))
		}
		if seen[d.String()] {
			r.wrong(at, "%q is listed twice: remove one", text)
		}
		seen[d.String()] = true
		if strings.ContainsAny(d.Name, "=!") {
			r.selector(at, d.Name)
		} else if meant := r.typoOf(d.Name); meant != "" {
			r.wrong(at, "role %q is unknown (did you mean %q?): correct it, or declare it under roles", d.Name, meant)
		}
	}
}

func (r *reader) selector(path, text string) {
	selector, err := query.Parse(text)
	r.check(path, err)
	for _, fact := range selector.Paths() {
		r.fact(path, fact)
	}
}

// fact rejects a fact that changes all the time: its dependents would never converge.
func (r *reader) fact(path, fact string) {
	r.check(path, query.CheckPath(fact))
	isUnstable := func(part string) bool { return slices.Contains(unstable, part) }
	if slices.ContainsFunc(strings.Split(fact, "."), isUnstable) {
		r.wrong(path, "fact %q changes all the time and would kick its dependents without end: remove it", fact)
	}
}

// unstable are names of facts that change all the time.
var unstable = []string{
	"uptime", "uptime_seconds", "uptime_minutes", "uptime_hours", "uptime_days", "system_uptime",
	"load", "loadavg", "load_average", "load_averages",
	"memoryfree", "memoryfree_mb", "swapfree", "swapfree_mb",
	"available", "available_bytes", "used", "used_bytes", "capacity",
	"now", "time", "timestamp",
}

func (r *reader) agent(a AgentConfig) {
	for i, server := range a.Server {
		_, err := serverURL(server)
		r.check(fmt.Sprintf("agent.server[%d]", i), err)
	}
	if a.Name != "" {
		r.check("agent.name", inventory.CheckName(a.Name))
	}
	if a.Instance != "" {
		r.check("agent.instance", checkInstance(a.Instance))
	}
	for i, role := range a.Roles {
		r.check(fmt.Sprintf("agent.roles[%d]", i), membership.CheckRole(role))
	}
	r.dependsOn("agent.depends_on", a.DependsOn)
	if len(a.DependsOn) > 0 && len(a.Actions) == 0 {
		r.wrong("agent.depends_on", "no action uses it: add one under agent.actions, or with --action NAME=COMMAND")
	}
	facts := inventory.Facts{}
	facts.SetRoles(a.Roles)
	for i, fact := range a.Facts {
		r.check(fmt.Sprintf("agent.facts[%d]", i), addFact(facts, fact))
	}
	r.check("agent.facts", facts.Check())
	r.check("agent.actions", atMost(kick.MaxActions, len(a.Actions), "actions", "remove some"))
	var needs []string // of all actions
	if a.Ready.Check != "" {
		_, err := a.Ready.Parse()
		r.check("agent.ready.check", err)
	}
	r.check("agent.ready.interval", atLeast(a.Ready.Interval, 10*time.Millisecond))
	r.check("agent.ready.timeout", atLeast(a.Ready.Timeout, 10*time.Millisecond))
	r.check("agent.ready.rise", atLeast(a.Ready.Rise, 1))
	r.check("agent.ready.fall", atLeast(a.Ready.Fall, 1))
	for i, action := range a.Actions {
		r.dependsOn(fmt.Sprintf("agent.actions[%d].depends_on", i), action.DependsOn)
		needs = append(needs, action.DependsOn...)
		if len(action.DependsOn) == 0 {
			needs = append(needs, a.DependsOn...)
		}
	}
	for _, err := range kick.ValidateActions(a.Actions) {
		path, text, _ := strings.Cut(err.Error(), ": ") // the error starts with the key
		if path != "actions" {                          // their number is checked here, with what they inherit
			r.wrong("agent."+path, "%s", text)
		}
	}
	if len(needs) > kick.MaxDependsAll {
		r.wrong("agent.actions", "they depend on %d roles and selectors together, at most %d are allowed: remove some",
			len(needs), kick.MaxDependsAll)
	}
	r.oneOf("agent.leave_on_stop", a.LeaveOnStop, LeaveAuto, LeaveAlways, LeaveNever)
}

// addFact adds NAME=VALUE to a node's facts. Any fact may be a member fact, which dependents write into their
// configuration.
func addFact(facts inventory.Facts, text string) error {
	path, value, err := inventory.ParseFact(text)
	if err != nil {
		return err
	}
	if top, _, _ := strings.Cut(path, "."); top == "role" {
		return fmt.Errorf("fact %.40s: roles are no fact to set: use agent.roles, or --role", path)
	}
	if err := atMost(maxPath, len(path), "bytes", "use a shorter name"); err != nil {
		return fmt.Errorf("fact %.40s: %w", path, err)
	}
	if _, err := inventory.MemberFact(path, value); err != nil {
		return err
	}
	if strings.TrimSpace(value) != value {
		return fmt.Errorf("fact %s: %.40q: remove the blanks around the value", path, value)
	}
	return facts.Set(path, value)
}

// checkInstance accepts what the state file and messages keep as it is.
func checkInstance(id string) error {
	if !isPrintable(id) {
		return fmt.Errorf("%.40q: only printable characters are allowed", id)
	}
	return atMost(inventory.MaxInstance, len(id), "bytes", "shorten it")
}

func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// listen checks the address of a listener.
func (r *reader) listen(path, address string) {
	needToken := r.options.Listens && r.config.TokenFile == "" && !r.config.Insecure
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		r.wrong(path, "%q is not an address: write HOST:PORT, or :PORT for all addresses", address)
	} else if err := checkPort(address, port); err != nil {
		r.check(path, err)
	} else if needToken && !api.IsLoopback(address) {
		r.wrong(path, "%s is beyond loopback and needs a token: "+
			"set token_file (created if missing; copy it to the agents), or --insecure", address)
	}
}

var digits = regexp.MustCompile(`[0-9]`)

// typoOf returns the declared role of which an undeclared name is likely a typo, or an empty string. Names that differ
// in digits only, such as web1 and web2, are no typos.
func (r *reader) typoOf(name string) string {
	declared := slices.Clone(r.config.Agent.Roles)
	for _, role := range r.config.Roles {
		declared = append(declared, role.Name)
	}
	meant := api.LikelyMeant(name, declared)
	if slices.Contains(declared, name) || digits.ReplaceAllString(name, "") == digits.ReplaceAllString(meant, "") {
		return ""
	}
	return meant
}
