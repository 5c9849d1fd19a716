"""SFT and reward models, on TRL's trainers."""
