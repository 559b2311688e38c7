package api

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Suggest is at most three of names, the likeliest first: few letters differ from name, or name is a part of them.
func Suggest(name string, names []string) []string {
	far := map[string]int{}
	for _, n := range names {
		d := distance(name, n)
		if strings.Contains(n, name) {
			d = min(d, 1)
		}
		if d <= 1+len(name)/5 {
			far[n] = d
		}
	}
	similar := slices.SortedFunc(maps.Keys(far), func(a, b string) int {
		return cmp.Or(cmp.Compare(far[a], far[b]), strings.Compare(a, b))
	})
	return similar[:min(3, len(similar))]
}

// LikelyMeant is the one of names that name is a typo of, or "": one or two letters differ, at most a third of them.
func LikelyMeant(name string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if d := distance(name, n); d > 0 && d < least && 3*d <= max(len(name), len(n)) {
			best, least = n, d
		}
	}
	return best
}

// distance is how many insertions, deletions, changes and swaps of neighbouring bytes turn a into b, at least.
func distance(a, b string) int {
	if max(len(a), len(b)) > 253 {
		return max(len(a), len(b)) // longer than any name, and slow to compare
	}
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
