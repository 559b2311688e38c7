package api

import (
	"cmp"
	"slices"
	"strings"
)

// Suggest is at most three of names that are similar to name, the likeliest first: name is a part of them, or few
// letters differ.
func Suggest(name string, names []string) []string {
	type candidate struct {
		name string
		far  int
	}
	var found []candidate
	for _, n := range names {
		if len(name) > 253 || len(n) > 253 {
			continue // longer than any name may be, and slow to compare
		}
		far := distance(name, n)
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

// LikelyMeant is the one of names that name is a typo of, or "": one or two letters differ, at most a third of them.
func LikelyMeant(name string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if len(name) > 64 || len(n) > 64 {
			continue // not a typo, and slow to compare
		}
		far := distance(name, n)
		if far > 0 && far < least && 3*far <= max(len(name), len(n)) {
			best, least = n, far
		}
	}
	return best
}

// distance is how many insertions, deletions, changes and swaps of neighbouring bytes turn a into b, at least.
func distance(a, b string) int {
	d := make([][]int, len(a)+1) // d[i][j] is that of a[:i] and b[:j]
	for i := range d {
		d[i] = make([]int, len(b)+1)
		for j := range d[i] {
			switch {
			case i == 0 || j == 0:
				d[i][j] = i + j
			case a[i-1] == b[j-1]:
				d[i][j] = d[i-1][j-1]
			default:
				d[i][j] = 1 + min(d[i-1][j-1], d[i-1][j], d[i][j-1])
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d[i][j] = min(d[i][j], 1+d[i-2][j-2])
				}
			}
		}
	}
	return d[len(a)][len(b)]
}
