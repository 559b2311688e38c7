package inventory

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of a member fact, in bytes.
const (
	MaxMemberText = 1 << 10 // of each text in it
	MaxMemberFact = 4 << 10 // of the whole fact as JSON
)

// MemberFact checks a fact that a member hands to its dependents, which write it into their configuration, and returns
// its one form. value is a JSON value, as encoding/json decodes it.
//
//	ipaddress    text: an IP address that others can use; no zone, not unspecified, multicast or link-local
//	port         a whole number from 1 to 65535, as text or number; the form is decimal text: "8080"
//	any other    its texts are valid UTF-8 of at most MaxMemberText bytes, without control characters and line
//	             separators; it has at most MaxMemberFact bytes as JSON; it stays as it is
//
// The form is accepted again and stays the same. The error is one short line for people. It names the fact, and shows
// its value only if that is harmless to print.
func MemberFact(path string, value any) (canonical any, err error) {
	switch path {
	case "ipaddress":
		canonical, err = memberAddress(value)
	case "port":
		canonical, err = memberPort(value)
	default:
		canonical, err = value, checkMemberFact(value)
	}
	if err != nil {
		return nil, fmt.Errorf("fact %.128s: %w", path, err)
	}
	return canonical, nil
}

func memberAddress(value any) (string, error) {
	text, _ := value.(string)
	addr, err := netip.ParseAddr(text)
	addr = addr.Unmap()
	want := ""
	switch {
	case err != nil:
		want = "want an IP address"
	case addr.Zone() != "":
		want = "want an IP address without a zone"
	case addr.IsUnspecified():
		want = "want the address of one node, not the unspecified address"
	case addr.IsMulticast():
		want = "want the address of one node, not a multicast address"
	case addr.IsLinkLocalUnicast():
		want = "want an address that other networks reach, not a link-local one"
	default:
		return addr.String(), nil
	}
	return "", errors.New(shown(value) + want)
}

func memberPort(value any) (string, error) {
	text := ""
	switch v := value.(type) {
	case string:
		text = v
	case float64:
		text = strconv.FormatFloat(v, 'f', -1, 64)
	case int:
		text = strconv.Itoa(v)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text != strconv.FormatUint(n, 10) {
		return "", errors.New(shown(value) + "want a number from 1 to 65535")
	}
	return text, nil
}

// shown returns the value at the beginning of an error, or nothing if it would not be one short and plain word there.
func shown(value any) string {
	switch v := value.(type) {
	case string:
		if checkText(v) == nil {
			return fmt.Sprintf("%.40q: ", v)
		}
	case float64, int, bool:
		return fmt.Sprintf("%v: ", v)
	}
	return ""
}

// checkMemberFact checks a fact that has no type of its own.
func checkMemberFact(value any) error {
	if err := eachText(value, checkText); err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return errors.New("want a JSON value")
	}
	if len(data) > MaxMemberFact {
		return fmt.Errorf("%d bytes as JSON, at most %d are allowed", len(data), MaxMemberFact)
	}
	return nil
}

// eachText checks every text in a JSON value, keys of objects too, and returns the first error.
func eachText(value any, check func(string) error) error {
	switch v := value.(type) {
	case string:
		return check(v)
	case []any:
		for _, inner := range v {
			if err := eachText(inner, check); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if err := check(key); err != nil {
				return err
			}
			if err := eachText(v[key], check); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkText checks one text of a member fact.
func checkText(s string) error {
	if len(s) > MaxMemberText {
		return fmt.Errorf("text of %d bytes, at most %d are allowed", len(s), MaxMemberText)
	}
	if err := checkUTF8(s); err != nil {
		return err
	}
	for _, r := range s {
		switch {
		case unicode.IsControl(r):
			return fmt.Errorf("it has the control character %U: remove it", r)
		case r == '\u2028' || r == '\u2029':
			return fmt.Errorf("it has the line separator %U: remove it", r)
		}
	}
	return nil
}

func checkUTF8(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("not valid UTF-8: write it in UTF-8")
	}
	return nil
}

// plain makes a text from elsewhere fit for one line of a message: valid UTF-8, a space for each character that is not
// printable, and at most `most` bytes, with a count of those that were cut.
func plain(s string, most int) string {
	printable := func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}
	return cut(strings.TrimSpace(strings.Map(printable, strings.ToValidUTF8(s, "\uFFFD"))), most)
}

// cut shortens valid UTF-8 to at most `most` bytes and says how many bytes it cut.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	const longest = len("… (1234567890 more bytes)")
	kept := max(0, most-longest)
	for kept > 0 && !utf8.RuneStart(s[kept]) {
		kept--
	}
	return fmt.Sprintf("%s… (%d more bytes)", s[:kept], len(s)-kept)
}
