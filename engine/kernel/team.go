package kernel

// Team is threads.
type Team struct{ n int }

// NewTeam makes a team.
func NewTeam(n int) *Team { return &Team{n} }

// Close stops it.
func (t *Team) Close() {}
