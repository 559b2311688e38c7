package daemon

import "kicker/kick"

// shim runs actions with `kicker shim`, a process that outlives the agent.
func shim(exe string) kick.Execute { return kick.Shim(exe, "shim") }

// RunShim is that process. It returns its exit code.
func RunShim(dir string) (code int) { return kick.ShimMain(dir) }
