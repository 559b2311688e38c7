package config

// near is the name that was probably meant by s, or empty.
func near(s string, names []string) string {
	best, least := "", 3
	for _, name := range names {
		d := distance(s, name)
		if d > 0 && d < least && 3*d <= max(len(s), len(name)) {
			best, least = name, d
		}
	}
	return best
}

// distance is how many letters must be added, dropped, changed or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 { // no typo, and not worth the time
		return max(len(a), len(b))
	}
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			change := row[j]
			if a[i] != b[j] {
				change++
			}
			next[j+1] = min(change, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
