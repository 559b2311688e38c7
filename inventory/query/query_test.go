package query

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var web1 = decode(`{
	"role": ["web", "cache"], "port": 8080, "weight": "08.50", "ready": true, "site": {"room": "5", "rack": 12},
	"os": {"family": "Debian", "release": {"full": "12.4"}}, "site.hall": "east", "motto": "a, \"b\"",
	"note": "", "none": null, "serial": "12345678901234567890", "half": 0.5, "big": 1e21, "disks": [],
	"a": {"b": "short", "b.c": "inner"}, "a.b": {"c": "outer"}
}`)

func TestSelectorMatches(t *testing.T) {
	for selector, want := range map[string]bool{
		"":                            true,
		"os.family=Debian":            true,
		"os.family=debian":            false,
		"os.release.full=12.4":        true,
		"role=web":                    true,
		"role=cache":                  true,
		"role=db":                     false,
		"role=web,role=cache":         true,
		"role=web,role=db":            false,
		"ready=true":                  true,
		"ready!=true":                 false,
		"site.hall=east":              true,
		"site.room=5,site.rack=12":    true,
		`motto='a, "b"'`:              true,
		`motto="a, \"b\""`:            true,
		`note=""`:                     true,
		" role = web , port != 8081 ": true,
	} {
		check(t, selector, want)
	}
}

func TestNumbersCompareAsNumbersOnlyIfBothLookLikeNumbers(t *testing.T) {
	for selector, want := range map[string]bool{
		"port=8080":                    true,
		"port=8080.0":                  true,
		"port=8.08e3":                  true,
		"port=8080x":                   false,
		"port=0x1f90":                  false,
		"port!=8080.0":                 false,
		"weight=8.5":                   true,
		"weight='8.5 '":                false,
		"half=.5":                      true,
		"big=1e21":                     true,
		"big=1000000000000000000000":   true,
		"ready=1":                      false,
		"serial=12345678901234567890":  true,
		"serial=12345678901234567891":  false,
		"serial!=12345678901234567891": true,
		"os.family=NaN":                false,
	} {
		check(t, selector, want)
	}
}

func TestUnequalIsTheOppositeOfEqualAlsoForLists(t *testing.T) {
	check(t, "role!=web", false)
	check(t, "role!=db", true)
	check(t, "disks!=sda", true)
	check(t, "disks=sda", false)
}

func TestAbsentFactMatchesNeither(t *testing.T) {
	for _, path := range []string{"nothing", "none", "os.nothing", "os.family.nothing", "port.nothing", "role.0"} {
		check(t, path+"=x", false)
		check(t, path+"!=x", false)
	}
}

func TestLookupTriesTheLongestKeyFirst(t *testing.T) {
	for path, want := range map[string]any{"a.b.c": "outer", "site.hall": "east", "os.release.full": "12.4"} {
		if got, ok := Lookup(web1, path); !ok || got != want {
			t.Errorf("Lookup(%s) = %v, %v, want %v", path, got, ok, want)
		}
	}
	if got, ok := Lookup(map[string]any{"a": map[string]any{"b": 1.0, "b.c": "inner"}}, "a.b.c"); !ok ||
		got != "inner" {
		t.Errorf("Lookup(a.b.c) = %v, %v, want inner: a longer key must lead to a fact", got, ok)
	}
	if got, ok := Lookup(web1, "os.release.minor"); ok {
		t.Errorf("Lookup(os.release.minor) = %v, want nothing", got)
	}
}

func TestParseErrorsShowThePlaceAndTheRemedy(t *testing.T) {
	for text, want := range map[string]string{
		"role":             `selector "role", at its end: want = or != and a value here, as in role=VALUE`,
		"role=":            `selector "role=", at its end: want a value here; put it in quotes`,
		"role=web,":        `selector "role=web,", at its end: want the name of a fact here, as in role=web`,
		"=web":             `selector "=web", character 1, at "=web": want the name of a fact`,
		"role=web,port<80": `selector "role=web,port<80", character 14, at "<80": want = or !=`,
		"role=~web": `selector "role=~web", character 5, at "=~web": there is no such operator; ` +
			`write role=VALUE or role!=VALUE`,
		"role==web":     `character 5, at "==web": there is no such operator`,
		"role=web db=x": `character 10, at "db=x": put a comma between terms`,
		"role=we(b":     `character 8, at "(b": put a comma between terms, and quotes around a value`,
		"role=we|b":     `character 8, at "|b"`,
		"(role=web)":    `character 1, at "(role=web)": want the name of a fact`,
		"!role=web":     `character 1, at "!role=web"`,
		"rôle='web":     `character 6, at "'web": this quote is not closed`,
		"role='web\\'":  `this quote is not closed`,
		"os..family=x":  `character 1, at "os..family=x": a fact's path has a name on both sides of each dot`,
		"a=1,.b=2":      `character 5, at ".b=2": a fact's path`,
		"a=\xff":        `selector "a=\xff": not valid UTF-8`,
	} {
		if s, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, %v, want an error with %s", text, s, err, want)
		}
	}
}

func TestStringIsCanonical(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		" b = 'x' ,a!=\"1\" , b=x":      "a!=1,b=x",
		`a='it\'s',a="",a="c d",a='\"'`: `a="",a="\"",a="c d",a="it's"`,
	} {
		if got := parse(t, text).String(); got != want {
			t.Errorf("Parse(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestAndMatchesWhatBothMatch(t *testing.T) {
	a, b := parse(t, "role=web,port=80"), parse(t, "os.family=Debian,role=web")
	if got, want := a.And(b).String(), "os.family=Debian,port=80,role=web"; got != want {
		t.Errorf("And = %q, want %q", got, want)
	}
	if got, want := a.String(), "port=80,role=web"; got != want {
		t.Errorf("And changed its receiver to %q, want %q", got, want)
	}
	if got := a.And(Selector{}).String(); got != a.String() {
		t.Errorf("And of the zero Selector = %q, want %q", got, a)
	}
}

// TestSelectorAgreesWithModel compares with a model that turns facts into path=text pairs and looks for the pair.
func TestSelectorAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts := drawFacts(t, 2)
		var terms []term
		for range rapid.IntRange(0, 3).Draw(t, "terms") {
			path := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "x.y"}), 1, 3).Draw(t, "path"),
				".")
			op := rapid.SampledFrom([]string{"=", "!="}).Draw(t, "op")
			terms = append(terms, newTerm(path, op, rapid.SampledFrom(leafTexts).Draw(t, "value")))
		}
		s := newSelector(slices.Clone(terms))
		want := true
		spread := map[string][]string{}
		spreadOut(spread, "", facts)
		for _, term := range terms {
			texts, present := spread[term.path]
			has := slices.ContainsFunc(texts, func(text string) bool { return sameText(text, term.value) })
			want = want && present && has == (term.op == "=")
		}
		if got := s.Matches(facts); got != want {
			t.Fatalf("(%s).Matches(%v) = %v, want %v", s, facts, got, want)
		}
	})
}

func TestStringParsesToTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var terms []term
		for range rapid.IntRange(0, 4).Draw(t, "terms") {
			path := rapid.StringMatching(`[a-z0-9_:/-]+(\.[a-z0-9_]+)*`).Draw(t, "path")
			terms = append(terms, newTerm(path, rapid.SampledFrom([]string{"=", "!="}).Draw(t, "op"),
				rapid.String().Draw(t, "value")))
		}
		s := newSelector(terms)
		again, err := Parse(s.String())
		if err != nil || !slices.Equal(s.terms, again.terms) {
			t.Fatalf("Parse(%q) = %+v, %v, want %+v", s, again.terms, err, s.terms)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "role=web", `a.b!='x y',c="\""`, "a=~/x/", "rôle=wéb", "a='"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("Parse(%q) gives %q; parsed again: %q, %v", text, s, again, err)
		}
		s.Matches(web1)
	})
}

func BenchmarkMatches(b *testing.B) {
	s := parse(b, "role=cache,os.family=Debian,port=8080.0,site.rack!=13")
	b.ReportAllocs()
	for b.Loop() {
		if !s.Matches(web1) {
			b.Fatal("no match")
		}
	}
}

func TestMatchesDoesNotAllocate(t *testing.T) {
	s := parse(t, "role=cache,os.family=Debian,port=8080.0,ready=true,weight=8.5,port!=x")
	if n := testing.AllocsPerRun(100, func() { s.Matches(web1) }); n != 0 {
		t.Errorf("Matches allocates %v times, want 0", n)
	}
}

// leaves are facts, leafTexts are values to compare them with.
var (
	leaves    = []any{"web", "8", 8.0, 8.5, true, "", []any{"web", "db"}, []any{8.0}, []any{}, nil}
	leafTexts = []string{"web", "db", "8", "8.0", "8.50", "true", ""}
)

func drawFacts(t *rapid.T, depth int) map[string]any {
	facts := map[string]any{}
	for _, key := range []string{"a", "b", "x.y"} {
		switch kind := rapid.IntRange(0, 2).Draw(t, key); {
		case kind == 1 && depth > 0:
			facts[key] = drawFacts(t, depth-1)
		case kind > 0:
			facts[key] = rapid.SampledFrom(leaves).Draw(t, "leaf")
		}
	}
	return facts
}

func spreadOut(spread map[string][]string, path string, fact any) {
	switch f := fact.(type) {
	case nil:
	case map[string]any:
		spread[path] = nil
		for key, inner := range f {
			spreadOut(spread, strings.TrimPrefix(path+"."+key, "."), inner)
		}
	case []any:
		spread[path] = nil
		for _, e := range f {
			spreadOut(spread, path, e)
		}
	case string:
		spread[path] = append(spread[path], f)
	default:
		text, err := json.Marshal(f)
		if err != nil {
			panic(err)
		}
		spread[path] = append(spread[path], string(text))
	}
}

func sameText(a, b string) bool {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return a == b || errX == nil && errY == nil && x == y
}

func check(t *testing.T, selector string, want bool) {
	t.Helper()
	if got := parse(t, selector).Matches(web1); got != want {
		t.Errorf("(%s).Matches = %v, want %v", selector, got, want)
	}
}

func parse(t testing.TB, text string) Selector {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func decode(text string) map[string]any {
	var facts map[string]any
	if err := json.Unmarshal([]byte(text), &facts); err != nil {
		panic(err)
	}
	return facts
}
