package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// bannedPhrases are phrases that no page and no output may contain, each with what to write instead.
// docs/reference/glossary.md has the words. A phrase here is wrong wherever it stands, so there are no exceptions.
var bannedPhrases = map[string]string{
	// lives of a node, and its role
	"heard":       "received; reported; a node is alive, suspect, restarting, left or gone",
	"unheard":     "has not reported",
	"back soon":   "restarting",
	"goodbye":     "leave; left",
	"goodbyes":    "nodes that leave",
	"farewell":    "leave",
	"any more":    "no longer",
	"alive for":   "alive, first seen ... ago",
	"is left for": "left ... ago",
	"bears":       "has the role; has the name",
	"borne":       "has had the role",
	"not serving": "not a member of ROLE: REASON",
	"is serving":  "is a member of ROLE",

	// actions
	"wanted":               "pending",
	"is waited for":        "waits for: GATE",
	"configured from":      "depends on",
	"what it is made from": "depends on",
	"unkicked":             "kick rejected: REASON",
	"kick was refused":     "kick rejected: REASON",
	"was not accepted":     "kick rejected: REASON",
	"in a circle":          "in a cycle",

	// the guard
	"hold over":        "hold ended",
	"is believed":      "is accepted; is confirmed",
	"does not believe": "holds",
	"shadowed":         "guard: shadow, not enforced",
	"only in shadow":   "guard: shadow, not enforced",
	"second opinion":   "probe",
	"second opinions":  "probes",
	"our link":         "the network between the controller and NODE",

	// discovery and the bus
	"calling the roll": "waiting for nodes to report",
	"calls the roll":   "waits for nodes to report",
	"call the roll":    "wait for nodes to report",
	"roll call":        "report request",
	"rollcall":         "report request",
	"accounted for":    "recovered; known",
	"owes":             "has not reported",
	"blind":            "bus lost",
	"blindness":        "bus lost",
	"deaf":             "bus lost; disconnects lost",
	"cut off":          "bus lost; disconnected",
	"closings":         "disconnects",

	// messages
	"no good":          "invalid; rejected",
	"refused message":  "invalid message",
	"refused messages": "invalid messages",

	// riddles
	"whoever":     "the node that; any client that",
	"whom":        "which node; which members",
	"nobody":      "no node; none",
	"no one":      "no node; none",
	"somebody":    "a person; a node",
	"anybody":     "any node; any client",
	"told of":     "reported; shown",
	"tells of":    "reports",
	"tell of":     "report",
	"only tells":  "only reports",
	"comes of it": "follows; its result",
	"came of it":  "followed; its result",
	"makes of it": "concludes",
	"make of it":  "do about it",
	"takes in":    "receives; applies",
	"taken in":    "received; applied",

	// what leaks from Go and NATS
	"context deadline exceeded": "no answer within ...",
	"no responders":             "no agent answers",
	"fork/exec":                 "start COMMAND",
	"exit -1":                   "did not start; was killed",
	"strconv":                   "not a number",
	"map has no entry for key":  "has no fact NAME",
	"1h0m0s":                    "1h",
	"1m0s":                      "1m",
}

// banned finds bannedPhrases: whole words in any case, also when a phrase goes on in the next line.
var banned = func() *regexp.Regexp {
	var phrases []string
	for phrase := range bannedPhrases {
		phrases = append(phrases, strings.ReplaceAll(regexp.QuoteMeta(phrase), " ", `\s+`))
	}
	slices.SortFunc(phrases, func(a, b string) int { return len(b) - len(a) }) // the longest match is the clearest
	return regexp.MustCompile(`(?i)(?:^|[^a-z0-9])(` + strings.Join(phrases, "|") + `)(?:$|[^a-z0-9])`)
}()

// bannedIn is a complaint for each banned phrase in a text, as "LINE: ...".
func bannedIn(text string) []string {
	var found []string
	for from := 0; ; {
		at := banned.FindStringSubmatchIndex(text[from:])
		if at == nil {
			return found
		}
		phrase := strings.ToLower(strings.Join(strings.Fields(text[from+at[2]:from+at[3]]), " "))
		line := 1 + strings.Count(text[:from+at[2]], "\n")
		found = append(found, fmt.Sprintf("%d: %q: write %q instead", line, phrase, bannedPhrases[phrase]))
		from += at[3] // the character behind it may begin the next one
	}
}

// readByPeople reports whether a file of the checkout is a page, or an output that a test expects.
func readByPeople(name string) bool {
	switch path.Ext(name) {
	case ".md":
		return name == "README.md" || name == "CHANGELOG.md" || strings.HasPrefix(name, "docs/")
	case ".yaml":
		return strings.HasPrefix(name, "docs/")
	case ".golden", ".txtar":
		return strings.Contains(name, "/testdata/")
	}
	return false
}

func TestDocsUsePlainWords(t *testing.T) {
	checkout := os.DirFS(filepath.Join("..", ".."))
	read := 0
	err := fs.WalkDir(checkout, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !readByPeople(name) {
			return err
		}
		text, err := fs.ReadFile(checkout, name)
		if err != nil {
			return err
		}
		read++
		for _, complaint := range bannedIn(string(text)) {
			t.Errorf("%s:%s", name, complaint)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if read < 50 {
		t.Errorf("%d files were read, want every page and every expected output", read)
	}
}

func TestBannedPhrasesAreFound(t *testing.T) {
	for phrase := range bannedPhrases {
		for _, text := range []string{
			phrase, "It says: " + strings.ToUpper(phrase) + ".", "a `" + phrase + "`", strings.ReplaceAll(phrase, " ", "\n  "),
		} {
			if got := bannedIn("first line\n" + text); len(got) != 1 || !strings.HasPrefix(got[0], "2: ") {
				t.Errorf("in %q: %q, want one complaint about line 2", text, got)
			}
		}
	}
	if got := bannedIn("blind deaf"); len(got) != 2 {
		t.Errorf("in two banned words: %q, want two complaints", got)
	}
	if got := bannedIn("unwanted blinds, overheard; a member of role web is alive"); len(got) != 0 {
		t.Errorf("in a text without banned words: %q", got)
	}
}
