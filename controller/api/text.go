package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/kballard/go-shellquote"

	"kicker/kick"
)

// Count is a number of things in words: "1 member", "3 members".
func Count(n int, singular string) string {
	if n == 1 {
		return "1 " + singular
	}
	return fmt.Sprintf("%d %ss", n, singular)
}

// List joins names with commas. Of more than most it gives the first ones and how many more there are.
func List(names []string, most int) string {
	if rest := len(names) - most; rest > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), rest)
	}
	return strings.Join(names, ", ")
}

// Duration is a duration for people, rounded and never below 0: "74ms", "1.8s", "90s", "15m", "2h", "4d".
func Duration(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Round(time.Millisecond).Milliseconds())
	case d < 10*time.Second && d%time.Second >= 50*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 2*time.Minute && d != time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour && d != time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// Outcome says how a run ended, as the end of a sentence: "failed with exit code 2", "timed out", "was lost".
func Outcome(outcome kick.Outcome, exit int) string {
	switch {
	case outcome == kick.Failed && exit >= 0:
		return fmt.Sprintf("failed with exit code %d", exit)
	case outcome == kick.Killed, outcome == kick.Lost:
		return "was " + string(outcome)
	}
	return string(outcome)
}

// AcceptLoss is the command that accepts the loss of n members which the guard of a role holds, quoted for a shell.
func AcceptLoss(role string, n int) string {
	return "kicker accept-loss " + shellquote.Join(fmt.Sprintf("role/%s=%d", role, n))
}

// Soonest is the earliest of times that is not zero; zero if all are.
func Soonest(times ...time.Time) time.Time {
	var soonest time.Time
	for _, t := range times {
		if soonest.IsZero() || !t.IsZero() && t.Before(soonest) {
			soonest = t
		}
	}
	return soonest
}
