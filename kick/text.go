package kick

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is how many bytes a text for people has in a message, unless its limit is named.
const maxText = 1024

// printable returns s in one line: a blank stands for each character that cannot be printed.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return ' '
	}, s)
}

// bounded returns s with at most so many bytes. If it is longer, it ends in the number of bytes that were cut.
func bounded(s string, most int) string {
	if len(s) <= most {
		return s
	}
	end := most - len("… (+ bytes)") - len(fmt.Sprint(len(s)))
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (+%d bytes)", s[:end], len(s)-end)
}
