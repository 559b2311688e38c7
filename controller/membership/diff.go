package membership

import (
	"fmt"
	"reflect"
	"strings"

	"kicker/kick"
)

// Diff is what changed between two memberships, as node names.
type Diff struct{ Added, Removed, Changed []string }

// Between compares two lists of members that are sorted by name.
func Between(was, is []kick.Member) Diff {
	var d Diff
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].Node < is[0].Node:
			d.Removed = append(d.Removed, was[0].Node)
			was = was[1:]
		case len(was) == 0 || is[0].Node < was[0].Node:
			d.Added = append(d.Added, is[0].Node)
			is = is[1:]
		default:
			if !reflect.DeepEqual(was[0].Facts, is[0].Facts) {
				d.Changed = append(d.Changed, is[0].Node)
			}
			was, is = was[1:], is[1:]
		}
	}
	return d
}

// String is the difference for people: "+web4 -web2 ~web1". Of more than four names of a kind it shows three.
func (d Diff) String() string {
	var words []string
	for _, part := range []struct {
		sign  string
		nodes []string
	}{{"+", d.Added}, {"-", d.Removed}, {"~", d.Changed}} {
		for i, node := range part.nodes {
			if i == 3 && len(part.nodes) > 4 {
				words = append(words, fmt.Sprintf("%s%d more", part.sign, len(part.nodes)-i))
				break
			}
			words = append(words, part.sign+node)
		}
	}
	return strings.Join(words, " ")
}
