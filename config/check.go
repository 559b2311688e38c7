package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kicker/controller"
	"kicker/controller/api"
	"kicker/inventory"
	"kicker/inventory/query"
	"kicker/kick"
)

// leastGoneAfter is 3.5 beats at the fastest pace.
const leastGoneAfter = 3500 * time.Millisecond

// check is all that is wrong with settings that could be read.
func (src *sources) check(c Config, listens bool) Problems {
	k := &checker{src: src, roles: declaredRoles(c)}
	k.error("cluster", inventory.CheckName(c.Cluster))
	if !filepath.IsAbs(c.StateDir) {
		k.wrong("state_dir", "%q: want an absolute path", c.StateDir)
	}
	if c.TokenFile != "" && !filepath.IsAbs(c.TokenFile) {
		k.wrong("token_file", "%q: want an absolute path", c.TokenFile)
	}
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	k.controller(c)
	k.roleConfigs(c)
	k.agent(c.Agent)
	k.bus(c.Bus, listens && c.TokenFile == "" && !c.Insecure)
	k.listen("api.listen", c.API.Listen, listens && c.TokenFile == "" && !c.Insecure)
	if src.has("api.url") && !strings.HasPrefix(c.API.URL, "unix:///") && checkURL(c.API.URL, "http", "https") != nil {
		k.wrong("api.url", "%q: write http://HOST:PORT, https://HOST:PORT or unix:///PATH", c.API.URL)
	}
	return k.problems
}

// checker collects problems.
type checker struct {
	src      *sources
	roles    []string // that are declared
	problems Problems
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
		k.wrong(path, "%q: want %s", value, strings.Join(allowed, ", "))
	}
}

func (k *checker) atLeast(path string, d, least time.Duration) {
	if d < least {
		k.wrong(path, "%v: want %v or more", d, least)
	}
}

// wrongPair blames that of two settings which somebody made.
func (k *checker) wrongPair(path, other, format string, args ...any) {
	if !k.src.has(path) {
		path = other
	}
	k.wrong(path, format, args...)
}

func (k *checker) bus(c BusConfig, unguarded bool) {
	if c.URL == "" {
		k.listen("bus.listen", c.Listen, unguarded)
		if c.SystemURL != "" {
			k.wrong("bus.system_url", "without bus.url there is no other NATS, and the embedded one needs none to tell which connections close: remove it, or set bus.url")
		}
		return
	}
	for u := range strings.SplitSeq(c.URL, ",") {
		k.error("bus.url", checkURL(strings.TrimSpace(u), "nats", "tls", "ws", "wss"))
	}
	if c.SystemURL == "" {
		return
	}
	for u := range strings.SplitSeq(c.SystemURL, ",") {
		if err := checkURL(strings.TrimSpace(u), "nats", "tls", "ws", "wss"); err != nil {
			k.error("bus.system_url", err)
		} else if !strings.Contains(u, "@") {
			k.wrong("bus.system_url", "%q names no user of NATS's system account: write it as nats://USER:PASSWORD@HOST:PORT", u)
		}
	}
}

func (k *checker) controller(c Config) {
	k.goneAfter("gone_after", c.GoneAfter)
	k.oneOf("guard", c.Guard, controller.GuardOn, controller.GuardShadow)
	k.oneOf("mode", c.Mode, controller.ModeAct, controller.ModeObserve)
	if c.InFlight < 1 {
		k.wrong("in_flight", "%d: want 1 or more", c.InFlight)
	}
	if c.Standby && c.Bus.URL == "" {
		k.wrong("standby", "without bus.url it would have nothing to take over: the embedded bus dies with its controller. Set bus.url to a NATS that outlives both")
	}
	k.atLeast("settle", c.Settle, 0)
	k.atLeast("settle_min", c.SettleMin, 0)
	k.atLeast("settle_max", c.SettleMax, 0)
	if c.SettleMin > c.SettleMax {
		k.wrongPair("settle_min", "settle_max", "settle_min %v is more than settle_max %v: raise settle_max, or lower settle_min", c.SettleMin, c.SettleMax)
	}
	k.atLeast("backoff.initial", c.Backoff.Initial, 100*time.Millisecond)
	if c.Backoff.Initial > c.Backoff.Max {
		k.wrongPair("backoff.initial", "backoff.max", "backoff.initial %v is more than backoff.max %v: raise backoff.max, or lower backoff.initial", c.Backoff.Initial, c.Backoff.Max)
	}
}

func (k *checker) goneAfter(path string, d time.Duration) {
	if d < leastGoneAfter {
		k.wrong(path, "%v is less than 3.5 heartbeats, so two lost ones would remove a node: want %v or more", d, leastGoneAfter)
	}
}

func (k *checker) roleConfigs(c Config) {
	first := map[string]int{}
	for i, role := range c.Roles {
		at := fmt.Sprintf("roles[%d]", i)
		if err := checkRoleName(role.Name); err != nil {
			k.wrong(at+".name", "%v", err)
		} else if before, twice := first[role.Name]; twice {
			k.wrong(at+".name", "%q is the name of roles[%d] already: make one entry of the two", role.Name, before)
		} else {
			first[role.Name] = i
		}
		if role.Selector != "" {
			k.selector(at+".selector", role.Selector)
		}
		if role.MinMembers < 0 {
			k.wrong(at+".min_members", "%d: want 0 or more", role.MinMembers)
		}
		if role.Mode != "" {
			k.oneOf(at+".mode", role.Mode, controller.ModeAct, controller.ModeObserve)
		}
		if role.Budget != "" {
			_, err := controller.ParseBudget(role.Budget, 1)
			k.error(at+".budget", err)
		}
		for j, fact := range role.MemberFacts {
			path := fmt.Sprintf("%s.member_facts[%d]", at, j)
			k.error(path, query.CheckPath(fact))
			k.constant(path, fact)
		}
		k.dependsOn(at+".depends_on", role.DependsOn)
		if role.Action != "" {
			if len(role.DependsOn) == 0 {
				k.wrong(at+".action", "%q is the action that depends_on is for, and there is none: add depends_on, or remove action", role.Action)
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

// dependsOn checks roles and selectors that something depends on. Any role may be one that nodes bear; only what looks like a
// declared one with a typo is refused.
func (k *checker) dependsOn(path string, needs []string) {
	there := map[string]bool{}
	for i, text := range needs {
		at := fmt.Sprintf("%s[%d]", path, i)
		need, same, err := controller.ParseNeed(text)
		if err != nil {
			k.wrong(at, "%v", err)
			continue
		}
		if strings.HasPrefix(need, "same=") { // one text was split into words
			k.wrong(at, "%q stands apart from its role: write both as one item of a list, as in [\"web %s\"]", need, need)
			continue
		}
		for _, fact := range same {
			k.error(at, query.CheckPath(fact))
			k.constant(at, fact)
		}
		if there[need] {
			k.wrong(at, "%q is there twice: remove one", need)
		}
		there[need] = true
		if isSelector(need) {
			k.selector(at, need)
		} else if err := checkRoleName(need); err != nil {
			k.wrong(at, "%v", err)
		} else if meant := api.LikelyMeant(need, k.roles); meant != "" && !slices.Contains(k.roles, need) && !numbered(need, meant) {
			k.wrong(at, "no role %q (did you mean %q? else declare it under roles)", need, meant)
		}
	}
}

func (k *checker) selector(path, text string) {
	selector, err := query.Parse(text)
	k.error(path, err)
	for _, fact := range selector.Paths() {
		k.constant(path, fact)
	}
}

// constant refuses a fact that is never the same twice: what is made of it would never be up to date.
func (k *checker) constant(path, fact string) {
	if alwaysChanges(fact) {
		k.wrong(path, "%q always changes, so dependents would be kicked without end: leave it out", fact)
	}
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
		k.wrong("agent.depends_on", "there is no action to run when they change: add one under agent.actions, or with --action NAME=COMMAND")
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
	k.actions(a)
	k.oneOf("agent.leave_on_stop", a.LeaveOnStop, LeaveAuto, LeaveAlways, LeaveNever)
}

func (k *checker) ready(r ReadyConfig) {
	if r.Check != "" {
		_, err := r.Parse()
		k.error("agent.ready.check", err)
	}
	k.atLeast("agent.ready.interval", r.Interval, 10*time.Millisecond)
	k.atLeast("agent.ready.timeout", r.Timeout, 10*time.Millisecond)
	if r.Rise < 1 {
		k.wrong("agent.ready.rise", "%d: want 1 or more", r.Rise)
	}
	if r.Fall < 1 {
		k.wrong("agent.ready.fall", "%d: want 1 or more", r.Fall)
	}
}

func (k *checker) actions(a AgentConfig) {
	own := slices.Clone(a.Actions)
	for i, action := range a.Actions {
		if !slices.Equal(action.DependsOn, a.DependsOn) { // else they were checked where they came from
			k.dependsOn(fmt.Sprintf("agent.actions[%d].depends_on", i), action.DependsOn)
		}
		own[i].DependsOn = nil
	}
	for _, err := range kick.ValidateActions(own) {
		path, text, _ := strings.Cut(err.Error(), ": ") // it names the key as a configuration does
		k.wrong("agent."+path, "%s", text)
	}
}

// listen checks what is listened on. If it is guarded it must not be reached from other machines.
func (k *checker) listen(path, listen string, unguarded bool) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		k.wrong(path, "%q: want HOST:PORT, or :PORT for all addresses", listen)
		return
	}
	if err := checkPort(port); err != nil {
		k.wrong(path, "%q: %v", listen, err)
		return
	}
	if unguarded && !isLoopback(host) {
		k.wrong(path, "listen %s: beyond loopback needs a token: set token_file (it is made if missing; copy it to the agents), or --insecure", listen)
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}

func checkPort(port string) error {
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q: want a number from 0 to 65535", port)
	}
	return nil
}

// declaredRoles are the roles that are certain to be meant.
func declaredRoles(c Config) []string {
	names := slices.Clone(c.Agent.Roles)
	for _, role := range c.Roles {
		names = append(names, role.Name)
	}
	return names
}

// isSelector tells a selector from a role's name.
func isSelector(s string) bool { return strings.ContainsAny(s, "=!") }

func checkRoleName(name string) error {
	if name == "" {
		return errors.New("a role needs a name")
	}
	return controller.CheckRole(name)
}

// numbered reports whether two names differ in their digits alone, as web1 and web2: that is no typo.
func numbered(a, b string) bool {
	digits := func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1
		}
		return r
	}
	return strings.Map(digits, a) == strings.Map(digits, b)
}

// alwaysChanges reports whether a fact is different each time it is looked at.
func alwaysChanges(fact string) bool {
	for part := range strings.SplitSeq(fact, ".") {
		switch part {
		case "uptime", "uptime_seconds", "uptime_minutes", "uptime_hours", "uptime_days", "system_uptime", "load", "loadavg",
			"load_average", "load_averages", "memoryfree", "memoryfree_mb", "swapfree", "swapfree_mb", "available", "available_bytes",
			"used", "used_bytes", "capacity", "now", "time", "timestamp":
			return true
		}
	}
	return false
}
