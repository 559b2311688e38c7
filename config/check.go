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

// check finds everything wrong with settings that could be read.
func (r *reader) check(c Config, listens bool) {
	k := checker{reader: r, needToken: listens && c.TokenFile == "" && !c.Insecure}
	for _, role := range c.Roles {
		k.roles = append(k.roles, role.Name)
	}
	k.roles = append(k.roles, c.Agent.Roles...)
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
	if u := c.API.URL; u != "" && !strings.HasPrefix(u, "unix:///") && checkURL(u, "http", "https") != nil {
		k.wrong("api.url", "%q is not a usable URL: write http://HOST:PORT, https://HOST:PORT or unix:///PATH",
			bus.Redacted(u))
	}
}

// checker finds values that no setting may have.
type checker struct {
	*reader
	roles     []string // that the configuration declares: those of the entries, then the agent's
	needToken bool     // no listener may be beyond loopback
}

func (k checker) error(path string, err error) {
	if err != nil {
		k.wrong(path, "%v", err)
	}
}

func (k checker) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.wrong(path, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func atLeast[N int | time.Duration](n, least N) error {
	if n < least {
		return fmt.Errorf("%s is too low: use %s or more", short(n), short(least))
	}
	return nil
}

// inOrder checks that the duration low is at most high. The problem is located at one of the two that is set.
func (k checker) inOrder(low string, l time.Duration, high string, h time.Duration) {
	if l <= h {
		return
	}
	path := low
	if where, _ := k.of(low); where == "" {
		path = high
	}
	k.wrong(path, "%s %s is more than %s %s: lower %[1]s or raise %[3]s", low, short(l), high, short(h))
}

func (k checker) absolute(path, dir string) {
	if !filepath.IsAbs(dir) {
		k.wrong(path, "%q is not an absolute path: start it with /", dir)
	}
}

func (k checker) bus(c BusConfig) {
	if c.URL == "" {
		k.listen("bus.listen", c.Listen)
		if c.SystemURL != "" {
			k.wrong("bus.system_url", "the embedded NATS server does not use it: remove it, or set bus.url")
		}
		return
	}
	for u := range strings.SplitSeq(c.URL, ",") {
		k.error("bus.url", checkURL(strings.TrimSpace(u), busSchemes...))
	}
	if c.SystemURL == "" {
		return
	}
	for u := range strings.SplitSeq(c.SystemURL, ",") {
		k.error("bus.system_url", checkURL(strings.TrimSpace(u), busSchemes...))
		if !strings.Contains(u, "@") {
			k.wrong("bus.system_url", "%q names no user of the system account: write nats://USER:PASSWORD@HOST:PORT", u)
		}
	}
}

func (k checker) controller(c Config) {
	k.goneAfter("gone_after", c.GoneAfter)
	k.oneOf("guard", c.Guard, controller.GuardOn, controller.GuardShadow)
	k.oneOf("mode", c.Mode, plan.ModeAct, plan.ModeObserve)
	k.error("in_flight", atLeast(c.InFlight, 1))
	if c.Standby && c.Bus.URL == "" {
		k.wrong("standby", "the embedded NATS server stops with its controller: set bus.url to another NATS")
	}
	k.error("settle", atLeast(c.Settle, 0))
	k.error("settle_min", atLeast(c.SettleMin, 0))
	k.error("settle_max", atLeast(c.SettleMax, 0))
	k.inOrder("settle_min", c.SettleMin, "settle_max", c.SettleMax)
	k.error("backoff.initial", atLeast(c.Backoff.Initial, 100*time.Millisecond))
	k.inOrder("backoff.initial", c.Backoff.Initial, "backoff.max", c.Backoff.Max)
}

func (k checker) goneAfter(path string, d time.Duration) {
	if d < minGoneAfter {
		k.wrong(path, "%s is less than 3.5 heartbeats: use %s or more, so that two lost heartbeats remove no node",
			short(d), short(minGoneAfter))
	}
}

func (k checker) roleEntries(roles []membership.RoleConfig) {
	for i, role := range roles {
		at := fmt.Sprintf("roles[%d]", i)
		k.error(at+".name", membership.CheckRole(role.Name))
		if first := slices.Index(k.roles, role.Name); first < i {
			k.wrong(at+".name", "role %q is already declared by roles[%d]: merge the two entries", role.Name, first)
		}
		if role.Selector != "" {
			k.selector(at+".selector", role.Selector)
		}
		k.error(at+".min_members", atLeast(role.MinMembers, 0))
		k.oneOf(at+".mode", cmp.Or(role.Mode, plan.ModeAct), plan.ModeAct, plan.ModeObserve)
		_, err := cmp.Or(role.Budget, membership.DefaultBudget).Of(1)
		k.error(at+".budget", err)
		for j, fact := range role.MemberFacts {
			k.fact(fmt.Sprintf("%s.member_facts[%d]", at, j), fact)
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
		k.goneAfter(at+".gone_after", cmp.Or(role.GoneAfter, minGoneAfter))
	}
}

// dependsOn checks roles and selectors that something depends on. A role need not be declared; only a name that looks
// like a typo of a declared role is rejected.
func (k checker) dependsOn(path string, needs []string) {
	seen := map[string]bool{}
	for i, text := range needs {
		at := fmt.Sprintf("%s[%d]", path, i)
		need, same, err := membership.ParseNeed(text)
		k.error(at, err)
		for _, fact := range same {
			k.fact(at, fact)
		}
		if seen[need] {
			k.wrong(at, "%q is listed twice: remove one", need)
		}
		seen[need] = true
		if strings.HasPrefix(need, "same=") { // one text was split into words
			k.wrong(at, `%q is separated from its role: write both as one item, such as ["web %[1]s"]`, need)
		} else if strings.ContainsAny(need, "=!") {
			k.selector(at, need)
		} else if err := membership.CheckRole(need); err != nil {
			k.error(at, err)
		} else if meant := k.typoOf(need); meant != "" {
			k.wrong(at, "role %q is unknown (did you mean %q?): correct it, or declare it under roles", need, meant)
		}
	}
}

func (k checker) selector(path, text string) {
	selector, err := query.Parse(text)
	k.error(path, err)
	for _, fact := range selector.Paths() {
		k.fact(path, fact)
	}
}

// fact rejects a fact that changes all the time: its dependents would never converge.
func (k checker) fact(path, fact string) {
	k.error(path, query.CheckPath(fact))
	isUnstable := func(part string) bool { return slices.Contains(unstable, part) }
	if slices.ContainsFunc(strings.Split(fact, "."), isUnstable) {
		k.wrong(path, "fact %q changes all the time and would kick its dependents without end: remove it", fact)
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

func (k checker) agent(a AgentConfig) {
	for i, server := range a.Server {
		_, err := serverURL(server)
		k.error(fmt.Sprintf("agent.server[%d]", i), err)
	}
	if a.Name != "" {
		k.error("agent.name", inventory.CheckName(a.Name))
	}
	for i, role := range a.Roles {
		k.error(fmt.Sprintf("agent.roles[%d]", i), membership.CheckRole(role))
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
	if a.Ready.Check != "" {
		_, err := a.Ready.Parse()
		k.error("agent.ready.check", err)
	}
	k.error("agent.ready.interval", atLeast(a.Ready.Interval, 10*time.Millisecond))
	k.error("agent.ready.timeout", atLeast(a.Ready.Timeout, 10*time.Millisecond))
	k.error("agent.ready.rise", atLeast(a.Ready.Rise, 1))
	k.error("agent.ready.fall", atLeast(a.Ready.Fall, 1))
	for i, action := range a.Actions {
		k.dependsOn(fmt.Sprintf("agent.actions[%d].depends_on", i), action.DependsOn)
	}
	for _, err := range kick.ValidateActions(a.Actions) {
		path, text, _ := strings.Cut(err.Error(), ": ") // the error starts with the key
		k.wrong("agent."+path, "%s", text)
	}
	k.oneOf("agent.leave_on_stop", a.LeaveOnStop, LeaveAuto, LeaveAlways, LeaveNever)
}

// listen checks the address of a listener.
func (k checker) listen(path, address string) {
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

var digits = regexp.MustCompile(`[0-9]`)

// typoOf returns the declared role of which an undeclared name is likely a typo, or an empty string. Names that differ
// in digits only, such as web1 and web2, are no typos.
func (k checker) typoOf(name string) string {
	meant := api.LikelyMeant(name, k.roles)
	if slices.Contains(k.roles, name) || digits.ReplaceAllString(name, "") == digits.ReplaceAllString(meant, "") {
		return ""
	}
	return meant
}
