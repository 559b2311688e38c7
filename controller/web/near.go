package web

import (
	"cmp"
	"slices"
	"strings"

	"github.com/antzucaro/matchr"
)

// near gives at most three of names that look like name: it is a part of them, or few letters differ.
func near(name string, names []string) []string {
	type candidate struct {
		name string
		far  int
	}
	var found []candidate
	for _, n := range names {
		if len(name) > 253 || len(n) > 253 {
			continue // no name of ours, and costly to compare
		}
		far := matchr.OSA(name, n)
		if strings.Contains(n, name) {
			far = min(far, 1)
		}
		if far <= 1+len(name)/5 {
			found = append(found, candidate{n, far})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.far, b.far), strings.Compare(a.name, b.name))
	})
	var out []string
	for _, c := range found[:min(3, len(found))] {
		out = append(out, c.name)
	}
	return out
}
