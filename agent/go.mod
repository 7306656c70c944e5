module bouvet/agent

go 1.27
