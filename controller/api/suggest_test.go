package api

import (
	"slices"
	"testing"
)

func TestSimilarNamesAreSuggested(t *testing.T) {
	names := []string{"web1.example.org", "web2.example.org", "lb1", "db", "web"}
	for _, test := range []struct {
		name string
		want []string
	}{
		{"wbe", []string{"web"}},
		{"we", []string{"web", "web1.example.org", "web2.example.org"}},
		{"web1", []string{"web", "web1.example.org"}},
		{"lb2", []string{"lb1"}},
		{"database", nil},
	} {
		if got := Suggest(test.name, names); !slices.Equal(got, test.want) {
			t.Errorf("Suggest(%q) = %q, want %q", test.name, got, test.want)
		}
	}
}

func TestTypoIsOneOrTwoLettersOff(t *testing.T) {
	for _, tc := range []struct{ s, want string }{
		{"wbe", "web"}, {"weeb", "web"}, {"db", ""}, {"we", "web"}, {"web", ""},
		{"haproyx", "haproxy"}, {"hapro", "haproxy"}, {"cache", ""},
	} {
		if got := LikelyMeant(tc.s, []string{"web", "haproxy"}); got != tc.want {
			t.Errorf("LikelyMeant(%q) = %q, want %q", tc.s, got, tc.want)
		}
	}
}
