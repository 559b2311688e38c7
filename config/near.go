package config

import "github.com/antzucaro/matchr"

// near is the name that was probably meant by s, or empty.
func near(s string, names []string) string {
	best, least := "", 3
	for _, name := range names {
		if len(s) > 64 || len(name) > 64 {
			continue // no typo, and not worth the time
		}
		d := matchr.OSA(s, name)
		if d > 0 && d < least && 3*d <= max(len(s), len(name)) {
			best, least = name, d
		}
	}
	return best
}
