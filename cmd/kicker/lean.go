package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// leanAfter is when the start of an agent is over: it has joined the bus, and has beaten.
const leanAfter = 5 * time.Second

// lean waits until the agent's start is over, and then gives back the memory that only the start needed. More than half of what an
// agent holds are pages of the program that initialisation ran through once, for the controller's part of it too. They are clean: the
// kernel maps those that are needed again from its cache.
func lean(ctx context.Context, log *slog.Logger) error {
	select {
	case <-time.After(leanAfter):
	case <-ctx.Done():
		return nil
	}
	debug.FreeOSMemory() // first: it runs through much of the program itself
	if err := dropClean(); err != nil {
		log.Debug("memory not given back", "err", err)
		return nil
	}
	log.Debug("memory of the start given back")
	return nil
}

// dropClean unmaps, until they are next touched, all pages that this process has in common with a file.
func dropClean() error {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	mappings, err := cleanMappings(f)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	var failed []error
	for _, m := range mappings {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			failed = append(failed, fmt.Errorf("madvise %x-%x: %w", m.from, m.to, errno))
		}
	}
	return errors.Join(failed...)
}

// mapping is a range of this process's addresses.
type mapping struct{ from, to uintptr }

// cleanMappings is the mappings of files that can't be written and have no page of their own: what is dropped of them is in the file.
// The second is for programs that are relocated when they start: they write to pages that are read-only from then on.
func cleanMappings(smaps io.Reader) ([]mapping, error) {
	var (
		clean   []mapping
		present mapping
		file    bool
	)
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"): // 00400000-00e9b000 r-xp 00001000 fe:00 1234 /usr/bin/kicker
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &present.from, &present.to); err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			perms, inode := fields[1], fields[4]
			file = inode != "0" && !strings.Contains(perms, "w") && strings.HasSuffix(perms, "p")
		case len(fields) >= 2 && fields[0] == "Anonymous:":
			if file && fields[1] == "0" {
				clean = append(clean, present)
			}
		}
	}
	return clean, lines.Err()
}
