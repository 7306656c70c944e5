package main

import (
	"os"
	"strconv"
	"strings"
)

// oomScorePath is what a process adds to its badness, by which the kernel chooses whom it kills when
// there is no memory left: proc(5). -1000 is never, and a child inherits it.
const (
	oomScorePath = "/proc/self/oom_score_adj"
	oomNever     = "-1000"
	oomNeutral   = "0"
)

// oomScore is the agent's protection from being killed for its commands' greed, which they do not get.
type oomScore struct {
	file *os.File // nil if the agent is not protected
	own  string
}

func openOOMScore() oomScore {
	content, err := os.ReadFile(oomScorePath)
	if err != nil {
		return oomScore{}
	}
	own := strings.TrimSpace(string(content))
	if value, err := strconv.Atoi(own); err != nil || value >= 0 {
		return oomScore{}
	}
	file, err := os.OpenFile(oomScorePath, os.O_WRONLY, 0)
	if err != nil {
		return oomScore{}
	}
	return oomScore{file, own}
}

// without calls start while this process has the neutral score: what is started then inherits it from
// its first instruction on, and so do its children. For this moment the agent is not protected.
func (s oomScore) without(start func() (int, error)) (int, error) {
	if s.file == nil {
		return start()
	}
	if _, err := s.file.WriteString(oomNeutral); err != nil {
		return 0, os.NewSyscallError("write "+oomScorePath, err)
	}
	defer s.file.WriteString(s.own)
	return start()
}
