package kick

import (
	"fmt"
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

// openOutput opens a run's output file to append, so that writing goes on at the end after the file was cut.
func openOutput(l Launch) (*os.File, error) {
	return os.OpenFile(l.outputFile(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) // it may show secrets
}

// boundOutput cuts an output file that became too large down to its end. It ignores errors: they must not fail the run.
func boundOutput(f *os.File) {
	info, err := f.Stat()
	if err != nil || info.Size() <= maxOutput {
		return
	}
	kept := make([]byte, keptOutput)
	n, err := f.ReadAt(kept, info.Size()-keptOutput)
	if err != nil || f.Truncate(0) != nil {
		return
	}
	fmt.Fprintf(f, "[kicker: %d bytes of output dropped]\n%s", info.Size()-int64(n), kept[:n])
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
