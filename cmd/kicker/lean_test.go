package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAgentThatGaveMemoryBackStillWorks(t *testing.T) {
	s := newSite(t, append([]string{"log: {level: debug}"}, swift...)...)
	s.controller()
	lb := s.agent("lb", "--role", "lb", "--depends-on", "web", "--action", "note=touch "+s.path("noted"))
	s.agent("web1", "--role", "web")
	s.converged(2)
	s.until("memory is given back", func() string {
		said, err := os.ReadFile(lb.log)
		return objection(err != nil || !strings.Contains(string(said), "memory of the start given back"), err)
	})
	s.remove("noted")
	s.agent("web2", "--role", "web")
	s.converged(3)
	if _, err := os.Stat(s.path("noted")); err != nil {
		t.Errorf("its action did not run after web2 had joined: %v", err)
	}
}

func TestCleanPagesAreGivenBack(t *testing.T) {
	touchProgram(t)
	before := resident(t, os.Getpid(), "RssFile")
	if err := dropClean(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t, os.Getpid(), "RssFile"); after > before*2/3 {
		t.Errorf("%d kB of files are resident after it, and %d kB were before: want a third less", after, before)
	}
}

// touchProgram makes the whole program resident, as a start does with much of it.
func touchProgram(t *testing.T) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mappings, err := cleanMappings(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mappings {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_POPULATE_READ); errno != 0 && errno != unix.EFAULT {
			t.Fatalf("madvise %x-%x: %v", m.from, m.to, errno)
		}
	}
}

// resident is a line of a process's status, in kB.
func resident(t testing.TB, pid int, line string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\n"+line+":")
	var kB int
	if _, err := fmt.Sscan(after, &kB); err != nil {
		t.Fatalf("%s of process %d: %v", line, pid, err)
	}
	return kB
}

func TestOnlyWhatIsInAFileIsDropped(t *testing.T) {
	const smaps = `00400000-00c00000 r-xp 00000000 fe:00 1234    /usr/bin/program, never written
Rss:                7000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00c00000-01000000 r--p 00800000 fe:00 1234    /usr/bin/relocated, and read-only since
Anonymous:             4 kB
01000000-01100000 rw-p 00c00000 fe:00 1234    /usr/bin/variables, not touched yet
Anonymous:             0 kB
c000000000-c000400000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000010000 r--s 00000000 fe:00 99    /shared
Anonymous:             0 kB
7f0000020000-7f0000030000 r--p 00000000 fe:00 77    /usr/lib/a library
Anonymous:             0 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0    [vdso]
Anonymous:             0 kB
`
	got, err := cleanMappings(strings.NewReader(smaps))
	if err != nil {
		t.Fatal(err)
	}
	want := []mapping{{0x400000, 0xc00000}, {0x7f0000020000, 0x7f0000030000}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mapping{})); diff != "" {
		t.Error(diff)
	}
}
