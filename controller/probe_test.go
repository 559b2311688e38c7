package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kicker/inventory"
	"kicker/kick"
)

// asked is a controller whose role web is held, six of ten being lost, and which lb1 to lb3 depend on.
func asked(t *testing.T) *Controller {
	t.Helper()
	c, err := New(DefaultConfig(), "me", inventory.New(), Bus{
		Probe: func(context.Context, string, []string) ([]string, error) { return nil, errors.New("no answer") },
	}, silent)
	if err != nil {
		t.Fatal(err)
	}
	c.roles = held(t).roles
	return c
}

func TestLastOpinionOfARoundDecides(t *testing.T) {
	type answer struct {
		reached []string
		err     error
	}
	none, silence := answer{}, answer{err: errors.New("no answer")}
	reaches := answer{reached: []string{"10.0.0.3:8080"}}
	for _, c := range []struct {
		claim    string
		answers  []answer
		given    func(*Controller)
		released bool
		opinion  string
	}{
		{"all agree", []answer{none, none}, nil, true, "lb1, lb2 can't reach them either"},
		{"who is silent is not counted", []answer{none, silence}, nil, true, "lb1 can't reach them either"},
		{"nobody answers", []answer{silence, silence}, nil, false, "2 dependents asked, and none answered"},
		{"one disagrees", []answer{none, reaches}, nil, false, "lb2 reaches 10.0.0.3:8080: it is our link that died"},
		{"nothing would be left", []answer{none, none}, func(c *Controller) {
			for i := 6; i < 10; i++ {
				_ = c.roles.move(serving(fmt.Sprint("web", i), inventory.Facts{"role": "web"}), nil, noon)
			}
			h := c.roles.byName["web"].guard.hold
			published(c.roles)
			if c.roles.byName["web"].guard.hold != h {
				t.Error("the hold is another one")
			}
		}, false, "lb1, lb2 can't reach them either, but nothing would be left: an operator has to say that this is true"},
		{"nothing that is not suspect would be left", []answer{none, none}, func(c *Controller) {
			for i := 6; i < 10; i++ {
				was := serving(fmt.Sprint("web", i), inventory.Facts{"role": "web"})
				is := *was
				is.Life = inventory.Suspect
				_ = c.roles.move(was, &is, noon)
			}
		}, false, "lb1, lb2 can't reach them either, but nothing would be left: an operator has to say that this is true"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			ctl := asked(t)
			r := ctl.roles.byName["web"]
			if c.given != nil {
				c.given(ctl)
			}
			round := &opinions{hold: r.guard.hold, asked: sortedKeys(r.guard.missing), waiting: len(c.answers)}
			h, missing := r.guard.hold, len(r.guard.missing)
			for i, a := range c.answers {
				if len(r.guard.missing) != missing || h.opinion != "" {
					t.Fatalf("decided after %d of %d answers", i, len(c.answers))
				}
				ctl.opinion("web", round, fmt.Sprint("lb", i+1), a.reached, a.err, noon)
			}
			if released := r.guard.hold == nil && len(r.guard.missing) == 0; released != c.released || h.opinion != c.opinion {
				t.Errorf("released: %t (%q), want %t (%q)", released, h.opinion, c.released, c.opinion)
			}
		})
	}
}

func TestOpinionOnSomeOfTheLostDecidesNothingOnOthers(t *testing.T) {
	c := asked(t)
	r := c.roles.byName["web"]
	round := &opinions{hold: r.guard.hold, asked: sortedKeys(r.guard.missing), waiting: 1}
	_ = c.roles.move(serving("web6", inventory.Facts{"role": "web"}), nil, noon)
	c.opinion("web", round, "lb1", nil, nil, in(time.Minute))
	if r.guard.hold == nil || len(r.guard.missing) != 7 {
		t.Fatal("the loss of one that nobody was asked about was believed")
	}
	if r.guard.hold.ask.After(in(time.Minute)) {
		t.Errorf("they are asked about it %s, want at once", r.guard.hold.ask)
	}
}

func TestOpinionOnAHoldThatEndedMeanwhileIsNothing(t *testing.T) {
	c := asked(t)
	r := c.roles.byName["web"]
	round := &opinions{hold: r.guard.hold, asked: []string{"web9"}, waiting: 1}
	r.guard.accept(noon, 4)
	r.guard.lost("web9", loss{at: noon})
	events := c.journal.seq
	c.opinion("web", round, "lb1", nil, nil, noon)
	if len(r.guard.missing) != 1 || c.journal.seq != events {
		t.Error("an opinion on a former hold decided on a new loss")
	}
	delete(c.roles.byName, "web")
	round.waiting = 1
	c.opinion("web", round, "lb1", nil, nil, noon)
}

func TestAddressesOfTheLost(t *testing.T) {
	var g guard
	for i := range 2 * inventory.MaxTargets {
		g.lost(fmt.Sprintf("a%03d", i), loss{facts: inventory.Facts{"ipaddress": fmt.Sprintf("10.0.0.%d", i), "port": 80.0}})
	}
	if got := g.addresses(); len(got) != inventory.MaxTargets {
		t.Errorf("%d are asked about at once, want %d", len(got), inventory.MaxTargets)
	}
	g = guard{}
	g.lost("b", loss{facts: inventory.Facts{"ipaddress": "fd00::1", "port": "8080"}})
	g.lost("c", loss{facts: inventory.Facts{"ipaddress": "10.0.0.1"}})
	g.lost("d", loss{member: kick.Member{Facts: map[string]any{"ipaddress": "10.0.0.2", "port": 80.0}}}) // of a former controller
	if got, want := g.addresses(), []string{"[fd00::1]:8080", "10.0.0.2:80"}; !slices.Equal(got, want) {
		t.Errorf("the addresses are %q, want %q", got, want)
	}
}

func TestWhoIsLostIsNoWitness(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		beat := func() {
			for i := range 4 {
				l.says(fmt.Sprint("peer", i), "web", reload())
			}
			l.says("lb1", "lb", reload())
		}
		beat()
		l.sync(t)
		beat()
		l.kicked()
		r := l.roles.byName["web"]
		r.guard.lost("peer1", loss{at: time.Now()}) // it is alive, and not ready any more
		l.closes("peer2")
		l.kicked()
		if got := strings.Join(l.witnesses(r), " "); got != "lb1 peer0 peer3" {
			t.Errorf("the witnesses are %q, want all but the lost peer1 and the suspect peer2", got)
		}
	})
}

func TestOpinionsAreSoughtTwiceAMinuteByWhoLeadsAndKnowsTheRole(t *testing.T) {
	for _, c := range []struct {
		claim  string
		given  func(*Controller)
		sought bool
	}{
		{"it leads", func(*Controller) {}, true},
		{"another one leads", func(c *Controller) { c.rival.id = "z" }, false},
		{"the role is not accounted for", func(c *Controller) { c.roles.byName["web"].gate.open = false }, false},
	} {
		t.Run(c.claim, func(t *testing.T) {
			ctl := asked(t)
			h := ctl.roles.byName["web"].guard.hold
			c.given(ctl)
			now := h.ask
			ctl.seekOpinions(t.Context(), now)
			if sought := h.opinion != ""; sought != c.sought || sought && h.ask != now.Add(30*time.Second) {
				t.Errorf("sought: %t, again %s; want %t, and every 30 s", sought, h.ask, c.sought)
			}
		})
	}
}

func TestFewDependentsAreWitnessesEachOnce(t *testing.T) {
	c := asked(t)
	for i := range 2 * witnesses {
		name := fmt.Sprint("lb", i)
		hears(t, c, name, true)
		c.byNode[name] = []*action{
			{node: name, name: "reload", needs: needing(c.roles, "web")}, {node: name, name: "restart", needs: needing(c.roles, "web")},
		}
	}
	c.actions = nil
	if got := fmt.Sprint(c.witnesses(c.roles.byName["web"])); got != "[lb0 lb1 lb2 lb3 lb4]" {
		t.Errorf("the witnesses are %s, want five nodes", got)
	}
}
