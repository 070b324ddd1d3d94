"""What passes between engine and plugins: the tensors of a step, the plan of a run, the task, the results."""
