package plan

import (
	"strings"
	"testing"

	"kicker/controller/membership"
)

func TestBudgetIsRoundedUp(t *testing.T) {
	for _, test := range []struct {
		budget     membership.Budget
		size, want int
	}{{"10%", 1, 1}, {"10%", 10, 1}, {"10%", 11, 2}, {"100%", 7, 7}, {"3", 100, 3}, {"3", 1, 3}, {"10%", 0, 1}} {
		if n, err := test.budget.Of(test.size); n != test.want || err != nil {
			t.Errorf("%s of %d nodes is %d, %v; want %d", test.budget, test.size, n, err, test.want)
		}
	}
}

func TestAnActionDoesNotWaitForAnotherOneThatIsItself(t *testing.T) {
	a := &Action{Key: Key{"lb1", "reload"}}
	for key, want := range map[Key]string{
		a.Key:            "its last kick is not over: ",
		{"lb1", "other"}: "another action of this node goes first: ",
	} {
		tab, _ := membership.New(membership.Config{})
		p := &places{Situation: Situation{Table: tab, Config: Config{InFlight: 9}}, busy: map[string]*Flight{"lb1": {Key: key}}}
		if gates := p.full(a); len(gates) != 1 || !strings.HasPrefix(gates[0].Why, want) {
			t.Errorf("%s is in progress: %+v, want %q", key, gates, want)
		}
	}
}
