// placeholder until native/ exists
