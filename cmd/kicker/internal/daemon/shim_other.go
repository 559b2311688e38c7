//go:build !linux

package daemon

import "kicker/kick"

// shim is nil: the agent needs Linux.
func shim(string) kick.Execute { return nil }

// RunShim fails: actions need Linux.
func RunShim(string) (code int) { return 1 }
