package print

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestAgesAreShort(t *testing.T) {
	for _, test := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "0s"},
		{5 * time.Second, "5s"},
		{119 * time.Second, "119s"},
		{3*time.Minute + 59*time.Second, "3m"},
		{119 * time.Minute, "119m"},
		{2 * time.Hour, "2h"},
		{47 * time.Hour, "47h"},
		{49 * time.Hour, "2d"},
		{1000 * 24 * time.Hour, "1000d"},
	} {
		if got := age(noon, noon.Add(test.d)); got != test.want {
			t.Errorf("age of %s is %s, want %s", test.d, got, test.want)
		}
	}
}

func TestTablesKeepTheirColumnsWhateverNodesSay(t *testing.T) {
	got := table([][]string{{"NODE", "WHY", "AGE"}, {"web1", "a\tb\nc\x1b[2J\u009b", "5s"}, {"web2", "", ""}})
	want := "NODE  WHY         AGE\nweb1  a b c [2J   5s\nweb2\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
