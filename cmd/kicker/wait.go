package main

import (
	"fmt"
	"io"
	"time"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

const (
	noteEvery = time.Second // at most, a wait says what changed
	noteMost  = 5           // actions that it names

	// For so long a wait must be a person's before it ends: the agent's answer may be older than what was ordered.
	personFor = 600 * time.Millisecond
)

// blocked is an action that a wait waits for.
type blocked struct {
	node, action string
	gates        []api.Gate
	running      bool
}

func (b blocked) name() string { return b.node + "/" + b.action }

// notes prints what a wait waits for, each time that it changes.
type notes struct {
	to   io.Writer
	said map[string]string // by action, and "" for the rest: what was said, without the time that is left
	last time.Time
}

func newNotes(to io.Writer) *notes { return &notes{to: to, said: map[string]string{}} }

// say prints what changed: why nothing can end yet, the actions, and how many more there are.
func (n *notes) say(why string, actions []blocked, more int, now time.Time) {
	if now.Sub(n.last) < noteEvery {
		return
	}
	said := map[string]string{}
	line := func(key, constant, text string) {
		if said[key] = constant; n.said[key] != constant {
			fmt.Fprintln(n.to, "kicker:", text)
			n.last = now
		}
	}
	if why != "" {
		line("", why, "waiting: "+why)
	}
	for i, b := range actions {
		if i == noteMost {
			more += len(actions) - noteMost
			break
		}
		constant := ""
		for _, g := range b.gates {
			constant += g.Name + ": " + g.Why + "; "
		}
		line(b.name(), constant+fmt.Sprint(b.running, len(b.gates)), print.Blocked(b.name(), b.gates, b.running, now))
	}
	if more > 0 {
		line("more", fmt.Sprint(more), "waiting for "+api.Count(more, "more action"))
	}
	n.said = said
}

// personError is the error of a wait that only a person can end. what is what waits.
func personError(what string, actions []blocked, last string) error {
	text := fmt.Sprintf("%s waits for a person", what)
	for i, b := range actions {
		if i == 3 {
			text += fmt.Sprintf("; and %d more", len(actions)-i)
			break
		}
		text += fmt.Sprintf("; %s waits for %s: %s", b.name(), b.gates[0].Name, print.OpenedBy(b.node, b.gates, last))
	}
	return exitError{exitPerson, fmt.Errorf("%s", text)}
}

// leaveNotes follows the waiting for a node that leaves.
type leaveNotes struct {
	*notes
	node  string
	last  bool
	began time.Time
	// person is since when only a person can end the wait; zero: something else can.
	person time.Time
}

// follow prints how far it is. It is an error if only a person can end the wait.
func (l *leaveNotes) follow(s api.LeaveStatus) error {
	now := time.Now()
	var actions []blocked
	for _, w := range s.Waiting {
		b := blocked{node: w.Node, action: w.Action}
		for _, g := range w.Gates {
			gate := api.Gate{Name: g.Name, Why: g.Why, Person: g.Person}
			if g.Left > 0 {
				gate.Until = now.Add(time.Duration(g.Left) * time.Millisecond)
			}
			b.gates = append(b.gates, gate)
		}
		actions = append(actions, b)
	}
	if !s.Person {
		l.person = time.Time{}
	} else if l.person.IsZero() {
		l.person = now
	}
	switch {
	case s.Person && len(actions) > 0 && now.Sub(l.person) >= personFor:
		last := ""
		if !l.last {
			last = "run this again with --last to allow that the role becomes empty, or start another member first"
		}
		return personError("leave "+l.node, actions, last)
	case s.Received:
		l.say(s.Why, actions, s.More, now)
	case now.Sub(l.began) > time.Second:
		l.say("no controller has confirmed yet", nil, 0, now)
	}
	return nil
}
