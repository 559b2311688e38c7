package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kicker/controller/api"
	"kicker/inventory"
	"kicker/kick"
)

// losesSix plays a role web of ten members, of which six die at once, and some dependents. Then probe answers for the
// dependents.
func losesSix(t *testing.T, dependents int, probe func(node string, targets []string) ([]string, error), story func(l *loop)) {
	t.Helper()
	inLoop(t, patient(), func(l *loop) {
		l.reaches = probe
		beat := func(from, to int) {
			for i := from; i < to; i++ {
				l.reports(fmt.Sprint("web", i), inventory.Facts{"role": "web", "ipaddress": fmt.Sprint("10.0.0.", i), "port": 8080.0}, kick.Status{})
			}
		}
		beat(0, 10)
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() { // whatever else happens, those that stay alive report every second
			for {
				beat(6, 10)
				for i := range dependents {
					l.says(fmt.Sprint("lb", i), "lb", reload())
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Second):
				}
			}
		}()
		l.sync(t)
		beat(0, 6)
		time.Sleep(time.Second)
		for i := range 6 {
			l.closes(fmt.Sprint("web", i))
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if l.web().Held == nil {
			t.Fatal("nothing is held")
		}
		story(l)
	})
}

func (l *loop) web() api.Role {
	synctest.Wait()
	roles := l.View().Roles
	return roles[slices.IndexFunc(roles, func(r api.Role) bool { return r.Name == "web" })]
}

func TestLastAnswerOfAProbeDecides(t *testing.T) {
	type answer struct {
		reached []string
		err     error
	}
	none, silence := answer{}, answer{err: errors.New("no answer")}
	reaches := answer{reached: []string{"10.0.0.3:8080"}}
	for _, c := range []struct {
		claim    string
		answers  []answer
		accepted bool
		text     string
	}{
		{"all agree", []answer{none, none}, true, "role web: the loss of 6 members is accepted: lb0, lb1 cannot reach them either"},
		{"a dependent that is silent does not count", []answer{none, silence}, true, "role web: the loss of 6 members is accepted: lb0 cannot reach them either"},
		{"none answers", []answer{silence, silence}, false, "role web: removals are still held: 2 dependents asked, none answered"},
		{"one disagrees", []answer{none, reaches}, false,
			"role web: removals are still held: lb1 reaches 10.0.0.3:8080 and the controller does not: the network between them is broken"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			answer := func(node string, _ []string) ([]string, error) {
				time.Sleep(time.Duration(node[2]-'0') * time.Second) // one after the other
				a := c.answers[node[2]-'0']
				return a.reached, a.err
			}
			losesSix(t, len(c.answers), answer, func(l *loop) {
				time.Sleep(3*time.Minute - 3*time.Second)
				if l.web().Held == nil || l.web().Held.Probe != "" {
					t.Fatalf("before the last answer the hold is %+v", l.web().Held)
				}
				time.Sleep(5 * time.Second)
				if accepted := l.web().Held == nil; accepted != c.accepted {
					t.Errorf("accepted: %t, want %t", accepted, c.accepted)
				}
				events := l.View().Events
				if !slices.ContainsFunc(events, func(e api.Event) bool { return e.Text == c.text }) {
					t.Errorf("no event says %q", c.text)
				}
			})
		})
	}
}

func TestProbesAreAskedTwiceAMinuteByTheLeader(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	count := func(node string, targets []string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[node]++
		if len(targets) != 6 || !slices.Contains(targets, "10.0.0.3:8080") {
			t.Errorf("%s is asked about %q, want the six lost members", node, targets)
		}
		return nil, errors.New("no answer")
	}
	losesSix(t, 2*maxProbers, count, func(l *loop) {
		time.Sleep(4*time.Minute + 10*time.Second)
		synctest.Wait()
		if got := fmt.Sprint(asked); got != "map[lb0:3 lb1:3 lb2:3 lb3:3 lb4:3]" {
			t.Errorf("in the minute after the first three the probes were %s, want five dependents every 30 s", got)
		}
	})
}

func TestProbersAreAliveAndNotLost(t *testing.T) {
	inLoop(t, patient(), func(l *loop) {
		var probers string
		beat := func(ready bool) {
			for i := range 4 {
				l.says(fmt.Sprint("peer", i), "web", reload())
			}
			l.says("lb1", "lb", reload())
		}
		beat(true)
		l.sync(t)
		beat(true)
		for _, k := range l.kicked() {
			l.ends(success(k))
		}
		l.says("peer1", "db", reload()) // alive, and no longer what it was
		l.closes("peer2")
		synctest.Wait()
		_ = l.inLoop(context.Background(), func(context.Context, time.Time) bool {
			probers = strings.Join(l.probers(l.table.Role("web")), " ")
			return false
		})
		if probers != "lb1 peer0 peer3" {
			t.Errorf("the probers are %q, want all but the lost peer1 and the suspect peer2", probers)
		}
	})
}
