package plan

import (
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
