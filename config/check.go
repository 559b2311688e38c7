package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

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

// check returns everything wrong with settings that could be read.
func (src *sources) check(c Config, listens bool) Problems {
	k := &checker{src: src, roles: declaredRoles(c), needToken: listens && c.TokenFile == "" && !c.Insecure}
	k.error("cluster", inventory.CheckCluster(c.Cluster))
	k.absolute("state_dir", c.StateDir)
	if c.TokenFile != "" {
		k.absolute("token_file", c.TokenFile)
	}
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	k.controller(c)
	k.roleEntries(c.Roles)
	k.agent(c.Agent)
	k.bus(c.Bus)
	k.listen("api.listen", c.API.Listen)
	if src.has("api.url") && !strings.HasPrefix(c.API.URL, "unix:///") && checkURL(c.API.URL, "http", "https") != nil {
		k.wrong("api.url", "%q is not a usable URL: write http://HOST:PORT, https://HOST:PORT or unix:///PATH",
			bus.Redacted(c.API.URL))
	}
	return k.problems
}

// checker collects problems.
type checker struct {
	src       *sources
	roles     []string // that the configuration declares
	needToken bool     // no listener may be beyond loopback
	problems  Problems
}

func (k *checker) wrong(path, format string, args ...any) {
	k.problems = append(k.problems, k.src.problem(path, format, args...))
}

func (k *checker) error(path string, err error) {
	if err != nil {
		k.wrong(path, "%v", err)
	}
}

func (k *checker) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.wrong(path, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func (k *checker) atLeast(path string, n, least int) {
	if n < least {
		k.wrong(path, "%d is too low: use %d or more", n, least)
	}
}

func (k *checker) lasts(path string, d, least time.Duration) {
	if d < least {
		k.wrong(path, "%s is too short: use %s or more", shortDuration(d), shortDuration(least))
	}
}

// inOrder checks that the duration low is at most high. The problem is located at one of the two that is set.
func (k *checker) inOrder(low string, l time.Duration, high string, h time.Duration) {
	if l <= h {
		return
	}
	path := low
	if !k.src.has(path) {
		path = high
	}
	k.wrong(path, "%s %s is more than %s %s: lower %[1]s or raise %[3]s", low, shortDuration(l), high, shortDuration(h))
}

func (k *checker) absolute(path, dir string) {
	if !filepath.IsAbs(dir) {
		k.wrong(path, "%q is not an absolute path: start it with /", dir)
	}
}

func (k *checker) bus(c BusConfig) {
	if c.URL == "" {
		k.listen("bus.listen", c.Listen)
		if c.SystemURL != "" {
			k.wrong("bus.system_url", "the embedded NATS server does not use it: remove it, or set bus.url")
		}
		return
	}
	k.busURLs("bus.url", c.URL)
	if c.SystemURL == "" {
		return
	}
	k.busURLs("bus.system_url", c.SystemURL)
	for u := range strings.SplitSeq(c.SystemURL, ",") {
		if !strings.Contains(u, "@") {
			k.wrong("bus.system_url", "%q names no user of the system account: write nats://USER:PASSWORD@HOST:PORT", u)
		}
	}
}

func (k *checker) busURLs(path, urls string) {
	for u := range strings.SplitSeq(urls, ",") {
		k.error(path, checkURL(strings.TrimSpace(u), busSchemes...))
	}
}

func (k *checker) controller(c Config) {
	k.goneAfter("gone_after", c.GoneAfter)
	k.oneOf("guard", c.Guard, controller.GuardOn, controller.GuardShadow)
	k.oneOf("mode", c.Mode, plan.ModeAct, plan.ModeObserve)
	k.atLeast("in_flight", c.InFlight, 1)
	if c.Standby && c.Bus.URL == "" {
		k.wrong("standby", "the embedded NATS server stops with its controller: set bus.url to another NATS")
	}
	k.lasts("settle", c.Settle, 0)
	k.lasts("settle_min", c.SettleMin, 0)
	k.lasts("settle_max", c.SettleMax, 0)
	k.inOrder("settle_min", c.SettleMin, "settle_max", c.SettleMax)
	k.lasts("backoff.initial", c.Backoff.Initial, 100*time.Millisecond)
	k.inOrder("backoff.initial", c.Backoff.Initial, "backoff.max", c.Backoff.Max)
}

func (k *checker) goneAfter(path string, d time.Duration) {
	if d < minGoneAfter {
		k.wrong(path, "%s is less than 3.5 heartbeats: use %s or more, so that two lost heartbeats remove no node",
			shortDuration(d), shortDuration(minGoneAfter))
	}
}

func (k *checker) roleEntries(roles []membership.RoleConfig) {
	first := map[string]int{}
	for i, role := range roles {
		at := fmt.Sprintf("roles[%d]", i)
		if err := checkRoleName(role.Name); err != nil {
			k.error(at+".name", err)
		} else if before, duplicate := first[role.Name]; duplicate {
			k.wrong(at+".name", "role %q is already declared by roles[%d]: merge the two entries", role.Name, before)
		} else {
			first[role.Name] = i
		}
		if role.Selector != "" {
			k.selector(at+".selector", role.Selector)
		}
		k.atLeast(at+".min_members", role.MinMembers, 0)
		if role.Mode != "" {
			k.oneOf(at+".mode", role.Mode, plan.ModeAct, plan.ModeObserve)
		}
		if role.Budget != "" {
			_, err := role.Budget.Of(1)
			k.error(at+".budget", err)
		}
		for j, fact := range role.MemberFacts {
			path := fmt.Sprintf("%s.member_facts[%d]", at, j)
			k.error(path, query.CheckPath(fact))
			k.stable(path, fact)
		}
		k.dependsOn(at+".depends_on", role.DependsOn)
		if role.Action != "" {
			if len(role.DependsOn) == 0 {
				k.wrong(at+".action", "action %q has no depends_on: add depends_on, or remove action", role.Action)
			}
			for _, err := range kick.ValidateActions([]kick.Action{{Name: role.Action, Command: []string{"true"}}}) {
				_, text, _ := strings.Cut(err.Error(), ": ")
				k.wrong(at+".action", "%s", text)
			}
		}
		if role.GoneAfter != 0 {
			k.goneAfter(at+".gone_after", role.GoneAfter)
		}
	}
}

// dependsOn checks roles and selectors that something depends on. A role need not be declared; only a name that looks
// like a typo of a declared role is rejected.
func (k *checker) dependsOn(path string, needs []string) {
	seen := map[string]bool{}
	for i, text := range needs {
		at := fmt.Sprintf("%s[%d]", path, i)
		need, same, err := membership.ParseNeed(text)
		if err != nil {
			k.error(at, err)
			continue
		}
		if strings.HasPrefix(need, "same=") { // one text was split into words
			k.wrong(at, `%q is separated from its role: write both as one item, such as ["web %[1]s"]`, need)
			continue
		}
		for _, fact := range same {
			k.error(at, query.CheckPath(fact))
			k.stable(at, fact)
		}
		if seen[need] {
			k.wrong(at, "%q is listed twice: remove one", need)
		}
		seen[need] = true
		if strings.ContainsAny(need, "=!") {
			k.selector(at, need)
		} else if err := checkRoleName(need); err != nil {
			k.error(at, err)
		} else if meant := k.typoOf(need); meant != "" {
			k.wrong(at, "role %q is unknown (did you mean %q?): correct it, or declare it under roles", need, meant)
		}
	}
}

func (k *checker) selector(path, text string) {
	selector, err := query.Parse(text)
	k.error(path, err)
	for _, fact := range selector.Paths() {
		k.stable(path, fact)
	}
}

// stable rejects a fact that changes all the time: its dependents would never converge.
func (k *checker) stable(path, fact string) {
	for part := range strings.SplitSeq(fact, ".") {
		if slices.Contains(unstable, part) {
			k.wrong(path, "fact %q changes all the time and would kick its dependents without end: remove it", fact)
			return
		}
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

func (k *checker) agent(a AgentConfig) {
	for i, server := range a.Server {
		_, err := serverURL(server)
		k.error(fmt.Sprintf("agent.server[%d]", i), err)
	}
	if a.Name != "" {
		k.error("agent.name", inventory.CheckName(a.Name))
	}
	for i, role := range a.Roles {
		k.error(fmt.Sprintf("agent.roles[%d]", i), checkRoleName(role))
	}
	k.dependsOn("agent.depends_on", a.DependsOn)
	if len(a.DependsOn) > 0 && len(a.Actions) == 0 {
		k.wrong("agent.depends_on", "no action uses it: add one under agent.actions, or with --action NAME=COMMAND")
	}
	facts := inventory.Facts{}
	for i, fact := range a.Facts {
		path, value, err := inventory.ParseFact(fact)
		if err == nil {
			err = facts.Set(path, value)
		}
		k.error(fmt.Sprintf("agent.facts[%d]", i), err)
	}
	k.ready(a.Ready)
	own := slices.Clone(a.Actions)
	for i, action := range a.Actions {
		if !slices.Equal(action.DependsOn, a.DependsOn) { // else agent.depends_on is already checked
			k.dependsOn(fmt.Sprintf("agent.actions[%d].depends_on", i), action.DependsOn)
		}
		own[i].DependsOn = nil
	}
	for _, err := range kick.ValidateActions(own) {
		path, text, _ := strings.Cut(err.Error(), ": ") // the error starts with the key
		k.wrong("agent."+path, "%s", text)
	}
	k.oneOf("agent.leave_on_stop", a.LeaveOnStop, LeaveAuto, LeaveAlways, LeaveNever)
}

func (k *checker) ready(r ReadyConfig) {
	if r.Check != "" {
		_, err := r.Parse()
		k.error("agent.ready.check", err)
	}
	k.lasts("agent.ready.interval", r.Interval, 10*time.Millisecond)
	k.lasts("agent.ready.timeout", r.Timeout, 10*time.Millisecond)
	k.atLeast("agent.ready.rise", r.Rise, 1)
	k.atLeast("agent.ready.fall", r.Fall, 1)
}

// listen checks the address of a listener.
func (k *checker) listen(path, address string) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		k.wrong(path, "%q is not an address: write HOST:PORT, or :PORT for all addresses", address)
	} else if err := checkPort(address, port); err != nil {
		k.error(path, err)
	} else if k.needToken && !api.IsLoopback(address) {
		k.wrong(path, "%s is beyond loopback and needs a token: "+
			"set token_file (created if missing; copy it to the agents), or --insecure", address)
	}
}

// declaredRoles returns the roles that the configuration names on purpose.
func declaredRoles(c Config) []string {
	names := slices.Clone(c.Agent.Roles)
	for _, role := range c.Roles {
		names = append(names, role.Name)
	}
	return names
}

func checkRoleName(name string) error {
	if name == "" {
		return errors.New("a role needs a name")
	}
	return membership.CheckRole(name)
}

// typoOf returns the declared role of which an undeclared name is likely a typo, or an empty string. Names that differ
// in digits only, such as web1 and web2, are no typos.
func (k *checker) typoOf(name string) string {
	meant := api.LikelyMeant(name, k.roles)
	noDigits := func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}
	if slices.Contains(k.roles, name) || strings.Map(noDigits, name) == strings.Map(noDigits, meant) {
		return ""
	}
	return meant
}
