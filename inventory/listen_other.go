//go:build !linux

package inventory

import "time"

// suspended is unknown: only a late canary shows a suspension.
func suspended() time.Duration { return 0 }
