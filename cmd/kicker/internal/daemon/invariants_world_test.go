package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
	"kicker/controller/plan"
	"kicker/inventory"
	"kicker/kick"
)

// world is a cluster with faults, and the truth about it, which the controller only knows from messages.
type world struct {
	*cluster
	dice     *rand.Rand
	counts   map[string]int
	machines []*machine
	born     int
	plan     []step  // what happens later, by time
	storm    weather // for every message
	calm     bool    // no more faults
	record   *record
	poisons  poisons
	takeover bool // two controllers run
	standby  bool // the newer one was started as a standby
}

// machine is a node and the truth about it.
type machine struct {
	*node
	role     string
	up, left bool
	ready    bool
	bare     bool // it has no fact port
	tainted  bool // it has the fact poison
	stalled  bool
	off      bool // it rejects kicks: disabled, or its disk is full
	flapping bool
	address  int
	boots    int
	limit    time.Duration // of its actions

	mu    sync.Mutex
	moods []mood // of its next runs; without one they succeed
	mood  mood   // of all runs, if it is forever
}

// poisons is the members with which runs end badly, by name, and how. A run only sees what it is handed.
type poisons struct {
	mu sync.Mutex
	by map[string]poison
}

// poison is how runs end that are handed a member.
type poison struct {
	how    mood
	byFact bool // only runs that are handed its fact poison
}

// strikes is how a run ends because of the members that it was handed.
func (p *poisons) strikes(file kick.MembersFile) mood {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, members := range file.Roles {
		for _, m := range members {
			if bad, is := p.by[m.Node]; is && (!bad.byFact || m.Facts["poison"] != nil) {
				return bad.how
			}
		}
	}
	return succeeds
}

func (p *poisons) put(node string, bad poison) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by == nil {
		p.by = map[string]poison{}
	}
	p.by[node] = bad
}

func (p *poisons) cure(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.by, node)
}

// has reports whether a member is poison to some runs.
func (p *poisons) has(node string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, is := p.by[node]
	return is
}

// mood is how a run ends.
type mood string

const (
	succeeds mood = ""
	fails    mood = "action fails"
	hangs    mood = "action hangs to its deadline"
	dies     mood = "action is killed"
	vanishes mood = "shim dies"
)

// Bounds of what actions do here.
const (
	runTimeout  = 20 * time.Second
	longTimeout = 3 * time.Minute // a run is overdue before that
	runGrace    = 5 * time.Second
)

// weather is what happens to messages, in percent.
type weather struct {
	mu                        sync.Mutex
	dice                      *rand.Rand
	lost, doubled, reordered  int
	nLost, nDouble, nOvertook int
}

func (w *weather) strike(_, subject string) fate {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch n := w.dice.IntN(100); {
	case n < w.lost:
		w.nLost++
		return lost
	case n < w.lost+w.doubled && !strings.Contains(subject, "_canary"):
		w.nDouble++
		return doubled
	case n < w.lost+w.doubled+w.reordered:
		w.nOvertook++
		return overtaken
	}
	return arrives
}

func (w *weather) set(lost, doubled, reordered int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost, w.doubled, w.reordered = lost, doubled, reordered
}

// step is something that happens at a moment of a schedule.
type step struct {
	at   time.Time
	what string
	do   func()
}

// newWorld is a healthy cluster of random size. Its record has begun.
func newWorld(c *cluster, dice *rand.Rand, counts map[string]int) *world {
	w := &world{cluster: c, dice: dice, counts: counts, record: newRecord(c.log.With("daemon", "schedule"))}
	w.storm.dice = rand.New(rand.NewPCG(dice.Uint64(), 0))
	c.weather = func(from, subject string) fate {
		what := w.storm.strike(from, subject)
		if what != arrives {
			w.record.note("message %s: %s from %s", what, subject, from)
		}
		return what
	}
	c.sent = func(from, subject string, payload []byte) {
		w.record.keepKicks(from, subject, payload)
		w.record.keepReleases(from, subject, payload)
	}
	c.cfg.Roles = []membership.RoleConfig{
		{
			Name: "haproxy", Budget: pick[membership.Budget](dice, "10%", "2", "50%"), MinMembers: pick(dice, 0, 1, 1),
		},
		{Name: "web", MinMembers: pick(dice, 0, 1, 1, 2)},
	}
	c.cfg.Backoff.Max = pick(dice, 20*time.Second, time.Minute, 10*time.Minute)
	c.cfg.Settle = pick(dice, 0, time.Second, time.Second, time.Second)
	if dice.IntN(3) == 0 {
		c.closeBroker()
		c.openBroker()
		c.system = dice.IntN(2) == 0
	}
	w.startControl()
	for range 2 + dice.IntN(7) {
		w.birth("web")
	}
	for range 1 + dice.IntN(5) {
		w.birth("haproxy")
	}
	if dice.IntN(2) == 0 {
		w.birth("monitoring")
	}
	return w
}

func pick[E any](dice *rand.Rand, of ...E) E { return of[dice.IntN(len(of))] }

// birth starts a new machine.
func (w *world) birth(role string) *machine {
	w.born++
	m := &machine{node: w.node(fmt.Sprintf("%s%02d", role, w.born)), role: role, ready: true, address: w.born}
	m.limit = pick(w.dice, runTimeout, runTimeout, longTimeout)
	w.machines = append(w.machines, m)
	m.cfg.Agent.Roles = []string{role}
	m.setAddress()
	action := func(name string, dependsOn ...string) kick.Action {
		return kick.Action{Name: name, Command: []string{name}, DependsOn: dependsOn, Timeout: m.limit,
			Grace: runGrace}
	}
	web := pick(w.dice, "web", withPoison)
	switch role {
	case "haproxy":
		m.cfg.Agent.Actions = []kick.Action{action("reload", web)}
		if w.dice.IntN(3) == 0 {
			m.cfg.Agent.Actions = append(m.cfg.Agent.Actions, action("peers", "haproxy", "web"))
		}
	case "monitoring":
		m.cfg.Agent.Actions = []kick.Action{action("targets", web, "haproxy", "monitoring")}
	}
	took := time.Duration(100+w.dice.IntN(4000)) * time.Millisecond
	m.do = func(r ranAction) kick.Ending { return m.run(took, w.poisons.strikes(r.file)) }
	w.start(m)
	return m
}

// withPoison is a need that hands over the fact poison of those that have it.
const withPoison = "web with=ipaddress,poison?,port"

func (m *machine) setAddress() {
	m.cfg.Agent.Facts = []string{"ipaddress=10.0.0." + fmt.Sprint(m.address)}
	if !m.bare {
		m.cfg.Agent.Facts = append(m.cfg.Agent.Facts, "port=8080")
	}
	if m.tainted {
		m.cfg.Agent.Facts = append(m.cfg.Agent.Facts, "poison=yes")
	}
}

// announce makes a machine that runs announce its facts anew, with these roles.
func (w *world) announce(m *machine, roles ...string) {
	m.setAddress()
	facts := inventory.HostFacts("")
	facts.SetRoles(roles)
	for _, text := range m.cfg.Agent.Facts {
		path, value, err := inventory.ParseFact(text)
		if err == nil {
			err = facts.Set(path, value)
		}
		if err != nil {
			w.t.Error(err)
		}
	}
	if err := m.announcer.SetFacts(facts); err != nil {
		w.t.Error(err)
	}
}

// run is what an action of this machine does. members is how it ends because of the members that it was handed.
func (m *machine) run(took time.Duration, members mood) kick.Ending {
	m.mu.Lock()
	how := m.mood
	if len(m.moods) > 0 {
		how, m.moods = m.moods[0], m.moods[1:]
	}
	m.mu.Unlock()
	if how == succeeds {
		how = members
	}
	if how == hangs {
		time.Sleep(m.limit + runGrace)
		return kick.Ending{Exit: -1, TimedOut: true, Signal: "killed"}
	}
	time.Sleep(took)
	switch how {
	case fails:
		return kick.Ending{Exit: 1}
	case dies:
		return kick.Ending{Exit: -1, Signal: "killed"}
	case vanishes:
		return kick.Ending{Exit: -1, Lost: true}
	}
	return kick.Ending{}
}

func (m *machine) failing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mood != succeeds
}

func (w *world) start(m *machine) {
	w.startAgent(m.node)
	m.up, m.left, m.stalled = true, false, false
	if m.ready {
		m.notReady = ""
	}
}

// setMode reloads the controller with another mode of a role.
func (w *world) setMode(role, mode string) {
	w.cfg.Roles = slices.Clone(w.cfg.Roles)
	for i := range w.cfg.Roles {
		if w.cfg.Roles[i].Name == role {
			w.cfg.Roles[i].Mode = mode
		}
	}
	if w.control == nil {
		return // the next one has it
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg := w.cfg
	cfg.Standby = w.standby
	if err := w.control.Reload(ctx, cfg); err != nil {
		w.t.Errorf("reload: %v", err)
	}
}

// startControl starts a controller and records its views.
func (w *world) startControl() {
	w.startController()
	w.standby = w.cfg.Standby
	w.record.follow(w.control, &w.processes)
}

// in plans a step in d.
func (w *world) in(d time.Duration, what string, do func()) {
	w.plan = append(w.plan, step{time.Now().Add(d), what, do})
	slices.SortStableFunc(w.plan, func(a, b step) int { return a.at.Compare(b.at) })
}

// play does all planned steps.
func (w *world) play() {
	for len(w.plan) > 0 {
		next := w.plan[0]
		w.plan = w.plan[1:]
		time.Sleep(time.Until(next.at))
		if next.what != "" {
			w.record.note("%s", next.what)
		}
		next.do()
	}
}

// happens counts a fault.
func (w *world) happens(kind string) { w.counts[kind]++ }

// fault is a kind of fault. It reports false if it is not possible at the moment.
type fault struct {
	kind string
	do   func(*world) bool
}

// any is a random machine for which is holds, nil if there is none.
func (w *world) any(is func(*machine) bool) *machine {
	candidates := slices.DeleteFunc(slices.Clone(w.machines), func(m *machine) bool { return !is(m) })
	if len(candidates) == 0 {
		return nil
	}
	return pick(w.dice, candidates...)
}

func sound(m *machine) bool { return m.up && !m.stalled && !m.left }

// between is a random duration in these bounds.
func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.dice.Int64N(int64(most-least)))
}

// on makes a fault of a sound machine.
func on(kind string, do func(*world, *machine)) fault {
	return fault{kind, func(w *world) bool {
		m := w.any(sound)
		if m == nil {
			return false
		}
		w.record.note("%s: %s", kind, m.self.Node)
		do(w, m)
		return true
	}}
}

// down plans the restart of an agent that has ended, after d.
func (w *world) down(m *machine, how string, d time.Duration) {
	m.up = false
	w.in(d, how+" "+m.self.Node+" is over", func() {
		if !m.up && !m.left {
			w.start(m)
			w.record.recover(m.self.Node, "stopped", "killed", "reset", "rebuilt")
		}
	})
}

// faults is all kinds of faults.
func faults() []fault {
	return []fault{
		{"message lost", func(w *world) bool {
			return w.spell(w.dice.IntN(30), 0, 0)
		}},
		{"message doubled", func(w *world) bool {
			return w.spell(0, 5+w.dice.IntN(40), 0)
		}},
		{"message reordered", func(w *world) bool {
			return w.spell(0, 0, 5+w.dice.IntN(40))
		}},
		on("delay", func(w *world, m *machine) {
			m.wire.delay(w.between(50*time.Millisecond, 1500*time.Millisecond))
			wire := m.wire
			w.in(w.between(time.Second, 20*time.Second), "delay is over", func() { wire.delay(0) })
		}),
		{"partition", func(w *world) bool {
			d := w.between(2*time.Second, 40*time.Second)
			n := 0
			for _, m := range w.machines {
				if sound(m) && w.dice.IntN(2) == 0 {
					w.freeze(m, d)
					n++
				}
			}
			return n > 0
		}},
		on("agent suspended", func(w *world, m *machine) { w.freeze(m, w.between(time.Second, 30*time.Second)) }),
		{"controller suspended", (*world).suspend},
		{"controller restarted", func(w *world) bool { return w.restartController(w.between(0, 20*time.Second)) }},
		{"broker restarted", func(w *world) bool { return w.restartBroker(w.between(0, 8*time.Second)) }},
		on("agent stopped by SIGTERM", func(w *world, m *machine) {
			d := w.between(0, 30*time.Second)
			if w.dice.IntN(5) == 0 {
				d = 80 * time.Second
			}
			w.record.impair(m.self.Node, "stopped", d >= 50*time.Second)
			w.stopAgent(m.node)
			w.down(m, "stop of", d)
		}),
		on("agent killed", func(w *world, m *machine) {
			d := w.between(0, 20*time.Second)
			w.record.impair(m.self.Node, "killed", d > time.Second)
			w.kill(m.node)
			w.down(m, "kill of", d)
		}),
		on("node reset", func(w *world, m *machine) {
			m.boots++
			w.record.impair(m.self.Node, "reset", true)
			w.crash(m.node, fmt.Sprintf("boot %d", m.boots+1))
			old := m.wire
			w.in(w.between(50*time.Second, time.Minute), "the broker closes a dead connection", old.cut)
			w.down(m, "reset of", w.between(0, 40*time.Second))
		}),
		on("machine rebuilt under its name", func(w *world, m *machine) {
			m.boots++
			w.record.impair(m.self.Node, "rebuilt", true)
			w.crash(m.node, fmt.Sprintf("boot %d", m.boots+1))
			m.wire.cut()
			m.self.Instance = fmt.Sprintf("machine %d of %s", m.boots, m.self.Node)
			w.record.rebuilt(m.self.Node)
			w.down(m, "rebuilding of", w.between(2*time.Second, 30*time.Second))
		}),
		on("node dead for good", func(w *world, m *machine) {
			if w.alive(m.role) < 2 {
				return
			}
			w.record.impair(m.self.Node, "dead", true)
			m.boots++
			w.crash(m.node, fmt.Sprintf("boot %d", m.boots+1))
			m.up = false
		}),
		on("leave", (*world).leave),
		{"leave during a takeover or a restart", func(w *world) bool {
			m := w.any(sound)
			if m == nil || w.control == nil || w.takeover {
				return false
			}
			w.in(w.between(0, 8*time.Second), "", func() {
				if sound(m) {
					w.leave(m)
				}
			})
			if w.external && w.dice.IntN(2) == 0 {
				return w.takeOver()
			}
			return w.restartController(w.between(0, 4*time.Second))
		}},
		on("role changed just before a leave", func(w *world, m *machine) {
			w.record.impair(m.self.Node, "role changed", true)
			w.announce(m, "spare")
			w.in(w.between(0, 400*time.Millisecond), "", func() {
				switch {
				case sound(m):
					w.leave(m)
					return
				case m.up && !m.left:
					w.announce(m, m.role)
				}
				w.record.recover(m.self.Node, "role changed")
			})
		}),
		{"join", func(w *world) bool {
			w.birth(pick(w.dice, "web", "web", "web", "haproxy"))
			return true
		}},
		on("readiness lost", func(w *world, m *machine) {
			w.record.impair(m.self.Node, "not ready", true)
			m.announcer.SetReady(false, "tcp:8080: refused")
			m.ready, m.notReady = false, "tcp:8080: refused"
			w.in(w.between(0, 20*time.Second), m.self.Node+" is ready again", func() {
				m.ready, m.notReady = true, ""
				m.announcer.SetReady(true, "")
				w.record.recover(m.self.Node, "not ready")
			})
		}),
		on("fact changed", func(w *world, m *machine) {
			m.address = w.dice.IntN(200)
			w.announce(m, m.role)
		}),
		on("required fact lost", func(w *world, m *machine) {
			w.record.impair(m.self.Node, "fact lost", true)
			m.bare = true
			w.announce(m, m.role)
			w.in(w.between(0, 30*time.Second), m.self.Node+" has its port again", func() { w.clothe(m) })
		}),
		poisonous("member breaks every run", fails, 5*time.Second, 3*time.Minute),
		poisonous("every run hangs on a list", hangs, 5*time.Second, 2*time.Minute),
		on("node comes and goes", func(w *world, m *machine) {
			if !m.flapping {
				m.flapping = true
				w.record.impair(m.self.Node, "flapping", true)
				w.flap(m, time.Now().Add(w.between(30*time.Second, time.Minute)))
			}
		}),
		{"dependents observed", func(w *world) bool {
			if w.control == nil || w.takeover {
				return false
			}
			w.setMode("haproxy", plan.ModeObserve)
			w.in(w.between(time.Second, 40*time.Second), "role haproxy acts again", func() { w.setMode("haproxy", "") })
			return true
		}},
		{"dependent disabled", func(w *world) bool { return w.reject("disabled") }},
		{"dependent rejects kicks", func(w *world) bool { return w.reject("runs") }},
		{"kick of an old controller", (*world).forge},
		{"clock stepped back", func(w *world) bool {
			return !w.external && w.restartController(w.between(0, 3*time.Second)) && w.stepBack()
		}},
		moody(fails), moody(hangs), moody(dies), moody(vanishes),
	}
}

// leave makes a machine leave, and perhaps return.
func (w *world) leave(m *machine) {
	w.record.impair(m.self.Node, "leave", true)
	w.record.left(m.self.Node)
	w.record.note("%s leaves", m.self.Node)
	m.announcer.Leave()
	m.left = true
	if w.dice.IntN(2) == 0 {
		w.in(w.between(time.Second, 20*time.Second), m.self.Node+" is in service again", func() {
			w.stopAgent(m.node)
			w.start(m)
			w.record.recover(m.self.Node, "leave", "role changed")
		})
	}
}

// takeOver starts a standby, which takes over when the controller that leads ends.
func (w *world) takeOver() bool {
	if w.control == nil || w.takeover || w.record.isCutOff() || w.broker == nil {
		return false // a standby that cannot reach the leader leads
	}
	leader := w.control
	w.takeover, w.cfg.Standby = true, true
	w.startControl()
	w.cfg.Standby = false
	w.in(w.between(time.Second, 15*time.Second), "the leader ends, and its standby takes over", func() {
		standby, began := w.control, time.Now()
		w.control = leader
		w.stopController()
		w.control, w.takeover = standby, false
		w.record.quake(began, 15*time.Second, true)
	})
	return true
}

// clothe gives a machine its port again.
func (w *world) clothe(m *machine) {
	m.bare = false
	m.setAddress()
	if m.up && !m.left {
		w.announce(m, m.role)
	}
	w.record.recover(m.self.Node, "fact lost")
}

// flap lets a machine come and go.
func (w *world) flap(m *machine, until time.Time) {
	if !time.Now().Before(until) || !sound(m) {
		m.flapping = false
		w.record.recover(m.self.Node, "flapping")
		return
	}
	m.up = false
	if w.dice.IntN(2) == 0 {
		w.kill(m.node)
	} else {
		w.stopAgent(m.node)
	}
	w.in(w.between(100*time.Millisecond, 4*time.Second), m.self.Node+" comes", func() {
		if !m.left {
			w.start(m)
		}
		w.in(w.between(time.Second, 5*time.Second), m.self.Node+" goes", func() { w.flap(m, until) })
	})
}

// poisonous makes a member of role web one with which runs end badly. Its facts change with that, or it is new.
func poisonous(kind string, how mood, least, most time.Duration) fault {
	return fault{kind, func(w *world) bool {
		m := w.any(func(m *machine) bool {
			return m.role == "web" && sound(m) && !m.flapping && !w.poisons.has(m.self.Node)
		})
		if m == nil || w.alive("web") < 2 {
			return false
		}
		if w.dice.IntN(2) == 0 {
			m = w.birth("web")
		}
		bad := poison{how: how, byFact: w.dice.IntN(2) == 0}
		w.record.note("%s: %s, by its fact: %t", kind, m.self.Node, bad.byFact)
		w.poisons.put(m.self.Node, bad)
		if m.tainted = bad.byFact; !m.tainted {
			m.address = 200 + w.dice.IntN(50)
		}
		w.announce(m, m.role)
		if w.dice.IntN(2) == 0 {
			w.in(w.between(least, most), "", func() { w.cure(m) })
		}
		return true
	}}
}

// cure makes runs with a member end well again.
func (w *world) cure(m *machine) {
	if !w.poisons.has(m.self.Node) {
		return
	}
	w.record.note("%s is no poison any more", m.self.Node)
	w.poisons.cure(m.self.Node)
	m.tainted = false
	if m.setAddress(); m.up && !m.left {
		w.announce(m, m.role)
	}
}

// reject makes a dependent reject kicks for a while: by a file disabled, or because its runs cannot be written.
func (w *world) reject(name string) bool {
	m := w.any(func(m *machine) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		running := m.process != nil && w.runs[m.process.at].ended.IsZero()
		return sound(m) && len(m.cfg.Agent.Actions) > 0 && !m.off && !running
	})
	if m == nil {
		return false
	}
	w.record.note("%s rejects kicks, by the file %s", m.self.Node, name)
	m.off = true
	path := filepath.Join(m.cfg.StateDir, "node", m.self.Node, name)
	away := path + ".away"
	_, err := os.Stat(path)
	existed := err == nil
	if existed {
		err = os.Rename(path, away)
	} else {
		err = nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte("on purpose"), 0o600)
	}
	if err != nil {
		w.t.Error(err)
	}
	w.in(w.between(time.Second, 40*time.Second), m.self.Node+" accepts kicks again", func() {
		m.off = false
		err := os.Remove(path)
		if err == nil && existed {
			err = os.Rename(away, path)
		}
		if err != nil {
			w.t.Error(err)
		}
	})
	return true
}

func (w *world) alive(role string) int {
	n := 0
	for _, m := range w.machines {
		if m.role == role && sound(m) {
			n++
		}
	}
	return n
}

// spell is weather for a while.
func (w *world) spell(lost, doubled, reordered int) bool {
	w.storm.set(lost, doubled, reordered)
	d := w.between(2*time.Second, 30*time.Second)
	w.record.note("weather for %s: %d %% lost, %d %% doubled, %d %% reordered", d, lost, doubled, reordered)
	if lost > 0 {
		w.record.quake(time.Now(), d, false)
	}
	w.in(d, "the weather is fine again", func() { w.storm.set(0, 0, 0) })
	return true
}

// freeze suspends a machine with its network.
func (w *world) freeze(m *machine, d time.Duration) {
	w.record.note("%s is frozen for %s", m.self.Node, d)
	w.record.impair(m.self.Node, "frozen", d > stunned)
	m.wire.stall(true)
	m.stalled = true
	wire := m.wire
	w.in(d, m.self.Node+" is not frozen", func() {
		wire.stall(false)
		m.stalled = false
		w.record.recover(m.self.Node, "frozen")
	})
}

// suspend stops everything between the controller and the bus.
func (w *world) suspend() bool {
	if w.control == nil || w.takeover || w.record.isCutOff() {
		return false
	}
	d := w.between(time.Second, 30*time.Second)
	w.record.note("the controller is disconnected for %s", d)
	w.record.quake(time.Now(), d, false)
	w.record.cutOff(d)
	wires := w.wiresOf("controller")
	for _, wire := range wires {
		wire.stall(true)
	}
	w.in(d, "the controller is connected", func() {
		for _, wire := range wires {
			wire.stall(false)
		}
	})
	return true
}

func (w *world) restartController(away time.Duration) bool {
	if w.control == nil || w.takeover {
		return false
	}
	began := time.Now()
	w.stopController()
	w.record.reconnected()
	w.record.quake(began, away, true)
	w.in(away, "the controller starts", func() {
		if w.control == nil {
			w.startControl()
		}
	})
	return true
}

// restartBroker stops the broker, and also the controller if the broker is embedded.
func (w *world) restartBroker(away time.Duration) bool {
	if w.control == nil || w.takeover || w.external && w.broker == nil {
		return false
	}
	began := time.Now()
	if !w.external {
		w.stopController()
		w.record.reconnected()
	}
	w.closeBroker()
	w.record.quake(began, away, !w.external)
	w.record.brokerDown(began, away)
	if !w.external {
		w.in(away, "controller and broker start", func() {
			w.startBus()
			w.startControl()
		})
		return true
	}
	w.in(away, "the broker starts", w.openBroker)
	return true
}

// moody makes the next runs of a machine end that way, or all of them.
func moody(how mood) fault {
	return fault{string(how), func(w *world) bool {
		m := w.any(func(m *machine) bool { return len(m.cfg.Agent.Actions) > 0 })
		if m == nil {
			return false
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for range 1 + w.dice.IntN(3) {
			m.moods = append(m.moods, how)
		}
		if how == fails && w.dice.IntN(6) == 0 {
			m.mood = fails
		}
		w.record.note("%s: %s", how, m.self.Node)
		return true
	}}
}

// forge sends a kick of an old controller to a node that has accepted a later one.
func (w *world) forge() bool {
	m := w.any(func(m *machine) bool {
		return sound(m) && len(m.cfg.Agent.Actions) > 0 && slices.ContainsFunc(w.ran(), func(r ranAction) bool {
			return r.node == m.self.Node && r.started.After(w.record.rebuiltAt(m.self.Node))
		})
	})
	if m == nil || w.control == nil || w.external {
		return false
	}
	nc, err := w.bus.Join("an old controller")
	if err != nil {
		return false
	}
	defer nc.Close()
	members := []kick.Member{{Node: "forged", Facts: map[string]any{}}}
	k := kick.Kick{ID: fmt.Sprintf("forged-%d", time.Now().UnixNano()), Controller: "old", Epoch: 1000,
		Node: m.self.Node, Action: m.cfg.Agent.Actions[0].Name, Reason: "forged", Ordered: w.dice.IntN(2) == 0}
	k.Needs = []kick.Membership{{Role: "forged",
		Revision: kick.Revision{Epoch: k.Epoch, N: 1, Hash: kick.Hash(members)}, Members: members}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	reply, err := kick.Send(ctx, nc, w.cfg.Cluster, k)
	if err == nil && reply.Answer != kick.Stale {
		w.t.Errorf("invariant 12: a kick of epoch 1000 was answered %+v", reply)
	}
	return err == nil
}

// stepBack gives the nodes an epoch that is far ahead of the next controller's wall clock.
func (w *world) stepBack() bool {
	nc, err := w.bus.Join("a controller whose clock was ahead")
	if err != nil {
		return false
	}
	defer nc.Close()
	ahead := w.record.newest() + time.Duration(1+w.dice.Int64N(1000)).Milliseconds() + (time.Duration(1+w.dice.IntN(48)) * time.Hour).Milliseconds()
	if err := inventory.SendBeacon(nc, w.cfg.Cluster,
		inventory.Beacon{ID: "ahead", Epoch: ahead, Pace: 1000}); err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return nc.FlushWithContext(ctx) == nil
}

// heal ends all faults, except those that are forever.
func (w *world) heal() {
	w.play()
	w.storm.set(0, 0, 0)
	for _, m := range w.machines {
		m.mu.Lock()
		m.moods = nil
		m.mu.Unlock()
	}
	w.calm = true
	w.record.note("no more faults")
}

// truth is the true members of a role, or of a part of it: their addresses by name.
func (w *world) truth(role string) map[string]string {
	members := map[string]string{}
	role, _, _ = strings.Cut(role, " ")
	for _, m := range w.machines {
		if m.role == role && m.up && !m.left && m.ready && !m.bare {
			members[m.self.Node] = fmt.Sprint("10.0.0.", m.address)
		}
	}
	return members
}

// record is what was seen from outside.
type record struct {
	log     *slog.Logger // what happens, in one order with the events of the controllers
	mu      sync.Mutex
	began   time.Time
	views   []*api.View
	kicks   []sentKick
	reigns  []reign // of controllers, in order
	hurt    map[string][]hurt
	quakes  []quake
	brokers []span // down
	cuts    []span // of the controller
	leaves  map[string][]time.Time
	rebirth map[string][]time.Time // of machines

	releases []release
}

// release is a controller's word that no dependent uses a node that left.
type release struct {
	at   time.Time
	node string
}

// span is from one moment to another.
type span struct{ from, to time.Time }

func (s span) meets(from, to time.Time) bool { return s.from.Before(to) && from.Before(s.to) }

// quake is a time in which slight faults of all nodes may add up. restart says that it is the restart of a controller.
type quake struct {
	span
	restart bool
}

// hurt is a time in which a node may have been silent. A slight one removes no node.
type hurt struct {
	span
	what  string
	grave bool
}

// sentKick is a kick as the controller sent it.
type sentKick struct {
	at time.Time
	kick.Kick
}

// reign is one run of a controller.
type reign struct {
	id   string
	from time.Time
}

// stunned is how long a machine may be frozen without being removed.
const stunned = 8 * time.Second

func newRecord(log *slog.Logger) *record {
	return &record{log: log, began: time.Now(), hurt: map[string][]hurt{}, leaves: map[string][]time.Time{},
		rebirth: map[string][]time.Time{}}
}

var forever = time.Unix(1<<40, 0)

// copy is what was recorded until now.
func (r *record) copy() *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &record{
		began: r.began, views: slices.Clone(r.views), kicks: slices.Clone(r.kicks), reigns: r.reigns,
		hurt: r.hurt, quakes: r.quakes, brokers: r.brokers, cuts: r.cuts, leaves: r.leaves, rebirth: r.rebirth,
		releases: slices.Clone(r.releases),
	}
}

func (r *record) locked(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

func (r *record) note(format string, args ...any) { r.log.Info(fmt.Sprintf(format, args...)) }

// impair notes that a node may be silent from now on.
func (r *record) impair(node, what string, grave bool) {
	r.locked(func() { r.hurt[node] = append(r.hurt[node], hurt{span{time.Now(), forever}, what, grave}) })
}

// recover notes that these reasons to be silent are over.
func (r *record) recover(node string, whats ...string) {
	r.locked(func() {
		for i := range r.hurt[node] {
			if h := &r.hurt[node][i]; h.to.Equal(forever) && slices.Contains(whats, h.what) {
				h.to = time.Now()
				// a stop takes longer on a stalled wire
				h.grave = h.grave || h.what == "killed" && h.to.Sub(h.from) > time.Second
			}
		}
	})
}

// quake notes a time in which all nodes were affected. It may have begun before: stopping takes longer on a stalled
// wire.
func (r *record) quake(began time.Time, d time.Duration, restart bool) {
	r.locked(func() { r.quakes = append(r.quakes, quake{span{began, time.Now().Add(d)}, restart}) })
}

func (r *record) cutOff(d time.Duration) {
	r.locked(func() { r.cuts = append(r.cuts, span{time.Now(), time.Now().Add(d)}) })
}

func (r *record) isCutOff() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.cuts) > 0 && r.cuts[len(r.cuts)-1].to.After(time.Now())
}

// reconnected ends the cut of a controller that is replaced.
func (r *record) reconnected() {
	r.locked(func() {
		if n := len(r.cuts); n > 0 && r.cuts[n-1].to.After(time.Now()) {
			r.cuts[n-1].to = time.Now()
		}
	})
}

func (r *record) brokerDown(began time.Time, d time.Duration) {
	r.locked(func() { r.brokers = append(r.brokers, span{began, time.Now().Add(d)}) })
}

func (r *record) left(node string) {
	r.locked(func() { r.leaves[node] = append(r.leaves[node], time.Now()) })
}

func (r *record) rebuilt(node string) {
	r.locked(func() { r.rebirth[node] = append(r.rebirth[node], time.Now()) })
}

// rebuiltAt is when a machine was rebuilt last.
func (r *record) rebuiltAt(node string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if all := r.rebirth[node]; len(all) > 0 {
		return all[len(all)-1]
	}
	return time.Time{}
}

// newest is the highest recorded epoch.
func (r *record) newest() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	highest := int64(0)
	for _, v := range r.views {
		highest = max(highest, v.Identity.Epoch)
	}
	return highest
}

// follow records every view of a controller until it ends.
func (r *record) follow(c *controlled, watching *sync.WaitGroup) {
	r.locked(func() { r.reigns = append(r.reigns, reign{c.View().Identity.ID, time.Now()}) })
	watching.Go(func() {
		for {
			v := c.View()
			if v.Leader == "" { // a standby only listens
				r.locked(func() { r.views = append(r.views, v) })
			}
			select {
			case <-v.Next:
			case <-c.over:
				return
			}
		}
	})
}

// keepKicks records sent kicks, also lost ones.
func (r *record) keepKicks(from, subject string, payload []byte) {
	if from != "controller" || !strings.Contains(subject, ".kick.") {
		return
	}
	var k kick.Kick
	if json.Unmarshal(payload, &k) == nil && k.ID != "" {
		r.note("kick %s of %s/%s is sent", k.ID, k.Node, k.Action)
		r.locked(func() { r.kicks = append(r.kicks, sentKick{time.Now(), k}) })
	}
}

// keepReleases records that a controller tells a node that it is released, also if that is lost.
func (r *record) keepReleases(from, subject string, payload []byte) {
	if from != "controller" || !strings.Contains(string(payload), inventory.DoStatus) {
		return
	}
	var o inventory.Order
	if json.Unmarshal(payload, &o) == nil && o.Status != nil && o.Status.Released {
		node := subject[strings.LastIndexByte(subject, '.')+1:]
		r.note("%s is released", node)
		r.locked(func() { r.releases = append(r.releases, release{time.Now(), node}) })
	}
}

// faultTable is how often each kind of fault happened.
func faultTable(counts map[string]int) string {
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%8d  %s\n", counts[kind], kind)
	}
	return b.String()
}
