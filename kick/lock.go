package kick

import (
	"context"
	"time"

	"github.com/gofrs/flock"
)

// acquire waits until it can take a lock, or until ctx ends. Its pauses grow, which flock's TryLockContext does not do:
// the end of a short run is noticed at once, and a long run costs no CPU time.
func acquire(ctx context.Context, path string) (*flock.Flock, error) {
	lock := flock.New(path)
	for pause := 2 * time.Millisecond; ; pause = min(pause*3/2, 100*time.Millisecond) {
		if locked, err := lock.TryLock(); locked || err != nil {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}
