package query

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// reserved are the characters that end a word. Some have no meaning yet: they are kept for future operators.
const reserved = "=!<>~()|&,\"'`\\"

// Parse parses a selector. Its errors show the place and the remedy.
func Parse(s string) (Selector, error) {
	if !utf8.ValidString(s) {
		return Selector{}, fmt.Errorf("selector %q: not valid UTF-8", s)
	}
	p := parser{text: s}
	terms, err := p.selector()
	if err != nil {
		place := s[p.pos:]
		if place == "" {
			return Selector{}, fmt.Errorf("selector %q, at its end: %w", s, err)
		}
		character := utf8.RuneCountInString(s[:p.pos]) + 1
		return Selector{}, fmt.Errorf("selector %q, character %d, at %.20q: %w", s, character, place, err)
	}
	return newSelector(terms), nil
}

// CheckPath reports why path can't be the path of a fact in a selector.
func CheckPath(path string) error {
	if !utf8.ValidString(path) {
		return errors.New("a fact's path is valid UTF-8: write it in UTF-8")
	}
	if i := bare(path); i < len(path) {
		return fmt.Errorf("a fact's path has no spaces and none of %s: remove them at %.20q", reserved, path[i:])
	}
	return checkDots(path)
}

// parser parses text from pos on. After an error pos is its place.
type parser struct {
	text string
	pos  int
}

func (p *parser) selector() ([]term, error) {
	if p.skipSpace(); p.rest() == "" {
		return nil, nil
	}
	var terms []term
	for {
		t, err := p.term()
		if err != nil {
			return nil, err
		}
		terms = append(terms, t)
		switch p.skipSpace(); {
		case p.rest() == "":
			return terms, nil
		case !p.accept(","):
			return nil, errors.New("put a comma between terms, " +
				"and quotes around a value with other characters than letters, digits and -_.:/")
		}
	}
}

func (p *parser) term() (term, error) {
	p.skipSpace()
	start := p.pos
	path := p.word()
	if path == "" {
		return term{}, errors.New("want the name of a fact here, as in role=web")
	}
	if err := checkDots(path); err != nil {
		p.pos = start
		return term{}, err
	}
	op, err := p.operator(path)
	if err != nil {
		return term{}, err
	}
	value, err := p.value()
	if err != nil {
		return term{}, err
	}
	return newTerm(path, op, value), nil
}

func (p *parser) operator(path string) (string, error) {
	p.skipSpace()
	for _, op := range []string{"!=", "="} {
		if !p.accept(op) {
			continue
		}
		if r := p.rest(); r != "" && strings.IndexByte("=<>~!", r[0]) >= 0 {
			p.pos -= len(op)
			return "", fmt.Errorf("there is no such operator; write %[1]s=VALUE or %[1]s!=VALUE", path)
		}
		return op, nil
	}
	return "", fmt.Errorf("want = or != and a value here, as in %s=VALUE", path)
}

func (p *parser) value() (string, error) {
	p.skipSpace()
	if strings.HasPrefix(p.rest(), `"`) || strings.HasPrefix(p.rest(), "'") {
		return p.quoted()
	}
	if w := p.word(); w != "" {
		return w, nil
	}
	return "", errors.New(`want a value here; put it in quotes if it has one of ` + reserved +
		` or a space, or is empty: ""`)
}

func checkDots(path string) error {
	if path == "" || strings.HasPrefix(path, ".") || strings.HasSuffix(path, ".") || strings.Contains(path, "..") {
		return errors.New("a fact's path has a name on both sides of each dot, as in os.family")
	}
	return nil
}

// quoted parses a value in quotes.
func (p *parser) quoted() (string, error) {
	text := p.rest()
	var value []byte
	for i := 1; i < len(text); i++ {
		if text[i] == text[0] {
			p.pos += i + 1
			return string(value), nil
		}
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		value = append(value, text[i])
	}
	return "", errors.New("this quote is not closed")
}

// word parses the longest run of characters that need no quotes.
func (p *parser) word() string {
	w := p.rest()[:bare(p.rest())]
	p.pos += len(w)
	return w
}

// accept skips s if it comes next, and reports whether it does.
func (p *parser) accept(s string) bool {
	if !strings.HasPrefix(p.rest(), s) {
		return false
	}
	p.pos += len(s)
	return true
}

func (p *parser) skipSpace() {
	p.pos = len(p.text) - len(strings.TrimLeftFunc(p.rest(), unicode.IsSpace))
}

func (p *parser) rest() string { return p.text[p.pos:] }

// quote returns value as a selector would contain it.
func quote(value string) string {
	if value != "" && bare(value) == len(value) {
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
}

// bare is the length of the first part of s that needs no quotes.
func bare(s string) int {
	for i, r := range s {
		if strings.ContainsRune(reserved, r) || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return i
		}
	}
	return len(s)
}
