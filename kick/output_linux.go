package kick

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// Limits of a run's output, in bytes.
const (
	maxOutput  = 8 << 20  // of the file
	keptOutput = 64 << 10 // of the file, after it became too large
	tailOutput = 4 << 10  // of the result
)

// droppedNote is the first line of an output file that was cut.
const droppedNote = "[kicker: the output before this was dropped]\n"

// boundOutput cuts an output file that became too large down to its end. The command goes on after that, because it
// appends; what it writes in the instant before Truncate is lost. Errors are ignored: they must not fail the run.
func boundOutput(l Launch) {
	f, err := os.OpenFile(l.outputFile(), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size <= maxOutput {
		return
	}
	// The end is copied to the start, as far as the command has come meanwhile. So the note is first in any case.
	end := io.NewSectionReader(f, size-keptOutput, maxOutput/2)
	n, err := io.Copy(io.NewOffsetWriter(f, 0), io.MultiReader(strings.NewReader(droppedNote), end))
	if err == nil {
		f.Truncate(n)
	}
}

// tail returns the end of a run's output as valid UTF-8.
func tail(l Launch) string {
	f, err := os.Open(l.outputFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	from, _ := f.Seek(-tailOutput, io.SeekEnd) // fails for a shorter file, which stays at its start
	data, _ := io.ReadAll(io.LimitReader(f, tailOutput))
	for from > 0 && len(data) > 0 && !utf8.RuneStart(data[0]) {
		data = data[1:] // the rest of a rune that was cut
	}
	return strings.ToValidUTF8(string(data), "\uFFFD")
}
